"""Running a network again after a change of weights, without recomputing what the change cannot reach."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

CACHE_BYTES = 2 * 2**30
"""Activations kept of one batch; what does not fit is computed again in every run."""


class DivergedError(Exception):
    """A second run of the network called other operators than the first, so that nothing can be reused."""


@dataclass(frozen=True, eq=False)
class _Call:
    """One operator call of the first run: its tensor inputs, and its result where it is kept."""

    func: Any
    inputs: tuple[Tensor, ...]
    result: Any
    kept: bool


def _storages(tensors: Iterable[Tensor]) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in tensors} - {0}


def _tensors(tree: Any) -> tuple[Tensor, ...]:
    return tuple(leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, Tensor))


class Recording:
    """One forward pass, with the results of its operators.

    A later run of the same function takes the recorded result of every operator whose inputs cannot have changed:
    a memory block (storage) is clean if it is a fixed one (inputs, weights) or a recorded result, and neither among
    those that the caller has changed nor written to by an operator with a changed input. Operators that write in
    place are always executed, on inputs put back to what they were.

    Memory: the results of one forward pass, at most `cache_bytes`.
    """

    def __init__(
        self, function: Callable[[], Any], fixed: Iterable[Tensor], cache_bytes: int = CACHE_BYTES
    ) -> None:
        """Run `function` once and record it; `fixed` are the tensors that it reads: inputs, weights, buffers."""
        self.function = function
        self.calls: list[_Call] = []
        self.clean = _storages(fixed)
        self.originals: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}
        self._left = cache_bytes
        with torch.no_grad(), _Recorder(self):
            self.output = function()

    def run(self, changed: Iterable[Tensor], substitute: Substitute | None = None) -> Any:
        """The function's result now that the tensors in `changed` hold other values.

        Raises:
            DivergedError: the function took another path.
        """
        for storage, before in self.originals.values():
            storage.copy_(before)
        with torch.no_grad(), _Replayer(self, _storages(changed), substitute):
            return self.function()

    def add(self, func: Any, inputs: tuple[Tensor, ...], result: Any) -> None:
        """Keep a call of the first run."""
        outputs = _tensors(result)
        new = [t for t in outputs if t.untyped_storage().data_ptr() not in self.clean]
        size = sum(t.untyped_storage().nbytes() for t in new)
        # A view is made again, which costs nothing: its memory is its base's, and torch refuses to return it twice.
        view = bool(_storages(outputs) & _storages(inputs))
        kept = not view and _storages(inputs) <= self.clean and size <= self._left
        if kept:
            self._left -= size
            self.clean |= _storages(outputs)
        known = _storages(inputs) <= self.clean
        self.calls.append(_Call(func, inputs if known else (), result if kept else None, kept))

    def before_write(self, inputs: tuple[Tensor, ...]) -> None:
        """Remember what an operator that writes in place may overwrite."""
        for tensor in inputs:
            storage = tensor.untyped_storage()
            if storage.data_ptr() in self.clean and storage.data_ptr() not in self.originals:
                self.originals[storage.data_ptr()] = (storage, storage.clone())


Substitute = Callable[[Any, tuple[Any, ...], Mapping[str, Any], tuple[Tensor, ...]], Any]
"""Called for every operator whose inputs changed: (operator, arguments, keywords, tensors that it read in the first
run, empty where they were not kept); gives the operator's result, or None to run it as it is."""


class _Recorder(TorchDispatchMode):
    def __init__(self, recording: Recording) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._recording = recording

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        inputs = _tensors((args, kwargs))
        if func._schema.is_mutable:
            self._recording.before_write(inputs)
        result = func(*args, **kwargs)
        self._recording.add(func, inputs, result)
        return result


class _Replayer(TorchDispatchMode):
    def __init__(self, recording: Recording, dirty: set[int], substitute: Substitute | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._recording = recording
        self._clean = recording.clean - dirty
        self._substitute = substitute
        self._next = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._next >= len(self._recording.calls) or self._recording.calls[self._next].func is not func:
            raise DivergedError(str(func))
        call = self._recording.calls[self._next]
        self._next += 1
        inputs = _tensors((args, kwargs))
        unchanged = _storages(inputs) <= self._clean
        if func._schema.is_mutable:
            if not unchanged:
                self._clean -= _storages(inputs)
            return func(*args, **kwargs)
        if unchanged and call.kept:
            return call.result
        if not unchanged and self._substitute is not None:
            result = self._substitute(func, args, kwargs, call.inputs)
            if result is not None:
                return result
        return func(*args, **kwargs)
