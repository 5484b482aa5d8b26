"""A handler of Ctrl-C and SIGTERM that only remembers them, so that the training loop can stop between two steps."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType

from knapsack_prune.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """While entered, the first SIGINT or SIGTERM is remembered; a second one raises `Interrupted` at once."""

    def __init__(self) -> None:
        self.signal = 0
        self._before: dict[int, object] = {}

    @property
    def asked(self) -> bool:
        """Whether to stop."""
        return bool(self.signal)

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._remember) for number in SIGNALS}
        return self

    def _remember(self, number: int, _frame: FrameType | None) -> None:
        if self.asked:
            raise Interrupted("interrupted twice: steps since the last checkpoint are lost", number)
        self.signal = number

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
