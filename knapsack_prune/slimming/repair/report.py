"""What a repair did, layer by layer."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from knapsack_prune.markup import html_table

Status = Literal["fitted", "kept", "skipped"]


@dataclass(frozen=True)
class LayerRepair:
    """One layer.

    Attributes:
        name: of the module.
        status: `fitted`; `kept`: the sliced weights stay; `skipped`: it cannot be fitted.
        reason: why not fitted, or what to know about the fit.
        target: `output`: the parent's output of this layer; `sum`: the parent's sum that the layer ends in.
        before, after: squared error on held-out images, of the target's variance.
        ridge: the strength that was chosen, relative to the variance of each input.
        unknowns: per output channel.
        samples: rows that the fit used: images times positions.
        steps: through the activation that follows.
        widened: whether the outputs explained little of the target and were given its standard deviation.
    """

    name: str
    status: Status
    reason: str = ""
    target: Literal["output", "sum"] = "output"
    before: float | None = None
    after: float | None = None
    ridge: float | None = None
    unknowns: int = 0
    samples: int = 0
    steps: int = 0
    widened: bool = False


@dataclass(frozen=True)
class RepairReport:
    """All layers, in execution order.

    Attributes:
        layers: see there.
        images: how many were used, over all processes; the fit saw those that were not held out.
        held_out: how many chose the strengths.
        seconds: wall time.
        activation_bytes: most memory that activations of this process took on the host.
    """

    layers: tuple[LayerRepair, ...]
    images: int
    held_out: int
    seconds: float
    activation_bytes: int

    def _repr_html_(self) -> str:
        """What notebooks show: per layer, the error on held-out images before and after its fit."""
        rows = []
        for layer in self.layers:
            errors = ("" if error is None else f"{error:.3f}" for error in (layer.before, layer.after))
            rows.append((layer.name, layer.status, *errors))
        return html_table(f"Repair on {self.images} images", ("layer", "", "before", "after"), rows)

    def record(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)
