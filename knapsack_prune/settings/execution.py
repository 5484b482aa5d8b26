"""How a run is carried out; none of it changes the outcome beyond rounding."""

import os
import sys
from typing import Annotated, Literal

from pydantic import Field

from knapsack_prune.settings.base import FORCE, INT_LIMIT, Device, Settings


class DeviceSettings(Settings):
    """Where to run, and how images get there."""

    device: Annotated[Device, Field(description="Where to train.")] = "auto"
    cache: Annotated[
        Literal["auto", "none", "device"],
        Field(
            description="device keeps all images decoded on the device, none reads them anew; auto keeps those that "
            "are in memory anyway."
        ),
    ] = "auto"
    workers: Annotated[
        int | None,
        Field(
            ge=0,
            lt=INT_LIMIT,
            description="Processes that read images where they are not cached; by default one per core, at most 8.",
        ),
    ] = None
    threads: Annotated[
        int | None,
        Field(
            ge=0,
            lt=INT_LIMIT,
            description="CPU threads per process; 0 leaves torch's choice. By default 1 for the embedded network, "
            "else as many as cores are free and, for small networks, worth the while by a short measurement.",
        ),
    ] = None

    progress: Annotated[
        bool | None, Field(description="Show progress bars; by default where standard error is a terminal.")
    ] = None

    @property
    def shows_progress(self) -> bool:
        """Whether bars are shown."""
        return sys.stderr.isatty() if self.progress is None else self.progress

    @property
    def loading_processes(self) -> int:
        """Processes that read images."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return min(8, cores) if self.workers is None else self.workers


class ResumeSettings(Settings):
    """What becomes of an earlier part of the same run."""

    resume: Annotated[
        bool,
        Field(
            description="Continue an earlier part of the same run in the output. Without it, that is refused."
        ),
    ] = True


class OutputSettings(ResumeSettings):
    """What becomes of whatever an output holds."""

    force: Annotated[bool, Field(description=FORCE)] = False


class ExecutionSettings(DeviceSettings, OutputSettings):
    """How a training run is carried out."""

    checkpoint_every: Annotated[
        int,
        Field(
            ge=0, lt=INT_LIMIT, description="Optimiser steps between checkpoints, besides every epoch's end."
        ),
    ] = 0
