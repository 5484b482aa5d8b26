"""Outputs of an ensemble, computed once for images without augmentation and found again by the image itself.

An image is recognised by the exact bits of its prepared pixels, not by its place in a dataset: order, batch size and
workers do not matter, a changed file is not mistaken for the old one, and an augmented image is simply not found.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from knapsack_prune.errors import RequestError
from knapsack_prune.training.distillation.teacher import EnsembleTeacher, Teacher, TeacherOutput

Batches = Iterable[tuple[Tensor, Tensor]]
FOLDER = "outputs"


@dataclass(frozen=True, eq=False)
class RecordedOutputs:
    """Logits by image.

    Attributes:
        keys: int64 (images,), sorted and distinct, see `image_keys`.
        logits: float32 (members, images, classes).
        digests: of the members' weights.
    """

    keys: Tensor
    logits: Tensor
    digests: tuple[str, ...]

    def look_up(self, images: Tensor) -> Tensor | None:
        """Logits (members, batch, classes) of a batch of prepared images; None if one of them is not recorded."""
        keys = image_keys(images)
        places = torch.searchsorted(self.keys, keys).clamp(max=len(self.keys) - 1)
        if not bool((self.keys[places] == keys).all()):
            return None
        return self.logits[:, places]

    def to(self, device: torch.device) -> RecordedOutputs:
        """The same on another device: 4 bytes per member, image and class."""
        return RecordedOutputs(self.keys.to(device), self.logits.to(device), self.digests)

    def save(self, path: Path) -> None:
        """Write a safetensors file, atomically."""
        waiting = path.with_name(f".{path.name}.partial")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            tensors = {"keys": self.keys.cpu(), "logits": self.logits.cpu().contiguous()}
            save_file(tensors, waiting, metadata={"digests": " ".join(self.digests)})
            waiting.replace(path)
        except (OSError, SafetensorError) as error:
            raise RequestError(
                f"cannot write {path}: {error}; free some space, or do without the record"
            ) from error
        finally:
            waiting.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path, digests: Sequence[str]) -> RecordedOutputs | None:
        """Read what `save` wrote; None if there is nothing, or if it is damaged or of other members."""
        try:
            with safe_open(path, framework="pt") as stored:
                if stored.metadata().get("digests", "").split() != list(digests):
                    return None
                return cls(stored.get_tensor("keys"), stored.get_tensor("logits"), tuple(digests))
        except (OSError, SafetensorError):
            return None


def record_outputs(
    run: Callable[[Tensor], Tensor], digests: Sequence[str], batches: Batches
) -> RecordedOutputs:
    """Run every batch once.

    Args:
        run: images to logits (members, batch, classes).
        digests: of the members behind it.
        batches: prepared images without augmentation, and labels; -1 marks an image that could not be read.
    """
    keys, logits = [], []
    for images, labels in batches:
        readable = labels >= 0
        keys.append(image_keys(images)[readable])
        logits.append(run(images)[:, readable])
    if not keys:
        raise RequestError("0 images are there to record outputs of: at least 1 is needed")
    order = torch.cat(keys)
    distinct, inverse = torch.unique(order, sorted=True, return_inverse=True)
    # Equal images have equal outputs: any of them stands for all.
    first = torch.empty_like(distinct).scatter_(0, inverse, torch.arange(len(order), device=order.device))
    return RecordedOutputs(distinct, torch.cat(logits, dim=1)[:, first].contiguous(), tuple(digests))


def recorded_file(directory: Path, digests: Sequence[str], part: str) -> Path:
    """Where the outputs of such members for such a part of a dataset lie."""
    text = "\n".join((*digests, part))
    return directory / FOLDER / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.safetensors"


def image_keys(images: Tensor) -> Tensor:
    """A 64-bit fingerprint per image of a batch, int64 (batch,): exact in integers, the same on every device.

    The bits of each float32 pixel, weighed by odd pseudo-random numbers that depend on its place, are summed modulo
    2^64.
    """
    bits = images.detach().float().contiguous().flatten(1).view(torch.int32).long()
    places = torch.arange(1, bits.shape[1] + 1, device=bits.device)
    # Products wrap around modulo 2^64, as they should. Mixing after Steele, Lea, Flood 2014 (SplitMix64).
    mixed = places * -7046029254386353131
    mixed = (mixed ^ ((mixed >> 30) & (2**34 - 1))) * -4658895280553007687
    mixed = (mixed ^ ((mixed >> 27) & (2**37 - 1))) * -7723592293110705685
    return (bits * (mixed | 1)).sum(dim=1)


class RecallingTeacher:
    """Answers from recorded outputs; whatever is not recorded is asked of the live teacher."""

    def __init__(self, live: Teacher, outputs: RecordedOutputs, features: bool) -> None:
        """Stand in for a teacher.

        Args:
            live: the teacher whose logits were recorded, member by member.
            outputs: its logits.
            features: whether features are asked for; the live teacher's first member then runs for them.
        """
        self._live = live
        self._outputs = outputs
        self._featuring = live.first if isinstance(live, EnsembleTeacher) else live
        self._features = features
        self.asked_live = 0

    def __call__(self, images: Tensor) -> TeacherOutput:
        logits = self._outputs.look_up(images)
        if logits is None:
            self.asked_live += 1
            return self._live(images)
        return TeacherOutput(logits, self._featuring(images).features if self._features else ())

    def to(self, device: torch.device, memory_format: torch.memory_format) -> None:
        self._live.to(device, memory_format)
        self._outputs = self._outputs.to(device)

    def compile(self) -> None:
        self._live.compile()

    def identity(self) -> str:
        return self._live.identity()
