"""Which inner features of parent and student are compared, and how they are taken from a running network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from knapsack_prune.errors import RequestError
from knapsack_prune.graph.selection import KeptChannels


@dataclass(frozen=True)
class StageMatch(KeptChannels):
    """The feature in which a stage ends, in the parent and in its pruned student.

    Attributes:
        masked: the student is the parent with masks held, so that its feature has all `size` channels.
    """

    masked: bool = False

    @property
    def student_channels(self) -> int:
        """Channels of the student's feature, as it is taken."""
        return self.size if self.masked else len(self.kept)


class FeatureTap:
    """Collects what named modules return while a network runs.

    Register it before the network is compiled. A module that runs several times leaves its last output.
    """

    def __init__(self, network: nn.Module, modules: Sequence[str]) -> None:
        """Raises `RequestError` if the network has no module of such a name."""
        self._order = tuple(modules)
        self._taken: dict[str, Tensor] = {}
        known = dict(network.named_modules())
        for name in self._order:
            if name not in known or not name:
                some = ", ".join([other for other in known if "." not in other and other][:8])
                raise RequestError(
                    f"the network has no module {name!r} to take features from; there are for example {some}"
                )
            known[name].register_forward_hook(self._keeper(name))

    def _keeper(self, name: str):  # type: ignore[no-untyped-def]
        def keep(_module: nn.Module, _inputs: object, output: object) -> None:
            if not isinstance(output, Tensor):
                raise RequestError(
                    f"module {name!r} returns {type(output).__name__} and not 1 tensor: "
                    "name another in `distill_layers`"
                )
            self._taken[name] = output

        return keep

    def take(self) -> tuple[Tensor, ...]:
        """The features of the run that just ended, in the order asked for; the tap is empty afterwards."""
        taken = tuple(self._taken[name] for name in self._order)
        self._taken.clear()
        return taken
