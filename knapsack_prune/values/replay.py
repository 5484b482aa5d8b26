"""Running a network again after a change of weights, without recomputing what the change cannot reach."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

LIMIT = 2**30
"""Memory for the activations of one run, in bytes."""


def memory_limit(device: torch.device) -> int:
    """Bytes for the activations of one run: `LIMIT` on the CPU, of a GPU a quarter of what is free."""
    return torch.cuda.mem_get_info(device)[0] // 4 if device.type == "cuda" else LIMIT


class DivergedError(Exception):
    """A second run of the network called other operators than the first, so that nothing can be reused."""


class _StoppedError(Exception):
    """A run has done all that was wanted of it."""


@dataclass(frozen=True, eq=False)
class _Call:
    """One operator call of the first run: what it read (storages), and its result where it is kept."""

    func: Any
    reads: frozenset[int]
    result: Any
    kept: bool
    size: int = 0


def _storages(tensors: Iterable[Tensor]) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in tensors} - {0}


def _tensors(tree: Any) -> tuple[Tensor, ...]:
    return tuple(leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, Tensor))


Watch = Callable[[int, Any, tuple[Any, ...]], None]
"""Called before every operator of the first run: (its number, operator, arguments)."""

Substitute = Callable[[int, Any, tuple[Any, ...]], Any]
"""Called for every operator whose inputs changed: (its number, operator, arguments); gives the operator's result, or
None to run it as it is."""


class Recording:
    """One forward pass, with the results of its operators.

    A later run of the same function takes the recorded result of every operator whose inputs cannot have changed:
    a memory block (storage) is clean if it is a fixed one (inputs, weights) or a recorded result, and neither among
    those that the caller has changed nor written to by an operator with a changed input. Operators that write in
    place what others have read before are always executed, on inputs put back to what they were.

    Memory: at most `cache_bytes`, and what a forward pass needs at a time.

    Attributes:
        output: what the function returned.
        calls: how many operators it called.
        kept_bytes: memory of what is kept.
    """

    def __init__(
        self,
        function: Callable[[], Any],
        fixed: Iterable[Tensor],
        changeable: Iterable[Tensor],
        *,
        cache_bytes: float = LIMIT,
        passing: Mapping[int, int] | None = None,
        watch: Watch | None = None,
    ) -> None:
        """Run `function` once and record it.

        Args:
            function: takes and gives the same every time.
            fixed: the tensors that it reads: inputs, weights, buffers.
            changeable: those of them that later runs may change.
            cache_bytes: the most that is kept; what does not fit is computed again in every run.
            passing: results that need not be kept, see `passing_results`.
            watch: sees every operator.
        """
        self.function = function
        self.kept_bytes = 0
        self._calls: list[_Call] = []
        self._clean = _storages(fixed)
        self._constant = self._clean - _storages(changeable)
        self._originals: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}
        self._read = set(self._clean)
        self._passing = passing or {}
        self._held: dict[int, list[tuple[int, set[int], Tensor]]] = {}
        self._sources: dict[int, list[int]] = {}
        self._cache_bytes = cache_bytes
        with torch.no_grad(), _Recorder(self, watch):
            self.output = function()
        self.calls = len(self._calls)

    def run(
        self, changed: Iterable[Tensor], substitute: Substitute | None = None, stop: int | None = None
    ) -> Any:
        """The function's result now that the tensors in `changed` hold other values.

        Args:
            changed: the tensors.
            substitute: takes the place of operators.
            stop: the number of the last operator that is wanted; the result is then None.

        Raises:
            DivergedError: the function took another path.
        """
        for storage, before in self._originals.values():
            storage.copy_(before)
        try:
            with torch.no_grad(), _Replayer(self, _storages(changed), substitute, stop):
                return self.function()
        except _StoppedError:
            return None

    def passing_results(self) -> dict[int, int]:
        """Results that need no memory: whoever reads them is recorded, too, and changes only if they do.

        Returns:
            By the number of the call that gives the result, that of the last one that reads it. The same for every
            run of the same function, whatever its number of examples.
        """
        last = _storages(_tensors(self.output))
        found = {}
        for number, call in enumerate(self._calls):
            if not call.kept or not isinstance(call.result, Tensor):
                continue
            own = _storages([call.result])
            readers = [n for n in range(number + 1, len(self._calls)) if own & self._calls[n].reads]
            if own & (last | self._originals.keys()) or not own or not readers:
                continue
            if all(self._carries(self._calls[n], own | self._constant) for n in readers):
                found[number] = readers[-1]
        return found

    @staticmethod
    def _carries(call: _Call, known: set[int]) -> bool:
        return call.kept and call.result is not None and call.size > 0 and call.reads <= known

    def add(self, func: Any, reads: frozenset[int], result: Any) -> None:
        """Keep a call of the first run."""
        number, outputs = len(self._calls), _tensors(result)
        new = [t for t in outputs if t.untyped_storage().data_ptr() not in self._clean]
        size = sum(t.untyped_storage().nbytes() for t in new)
        # A view is made again, which costs nothing: its memory is its base's, and torch refuses to return it twice.
        view = bool(_storages(outputs) & reads)
        passes = number in self._passing
        fits = passes or self.kept_bytes + size <= self._cache_bytes
        kept = not view and reads <= self._clean and fits
        if not view:
            self._read -= _storages(new)
            self._read |= reads
        if kept:
            self._clean |= _storages(outputs)
            if passes:
                self._held.setdefault(self._passing[number], []).append((number, _storages([result]), result))
                result = _without_memory(result)
            else:
                self.kept_bytes += size
        self._sources[number] = [n for held in self._held.values() for n, own, _ in held if own & reads]
        if not kept:
            self._forget_sources(number)
        self._calls.append(_Call(func, reads, result if kept else None, kept, size if kept else 0))
        for _, own, _ in self._held.pop(number, []):
            self._clean -= own

    def _forget_sources(self, number: int) -> None:
        """What a call that is not kept reads is needed in every run."""
        for source in self._sources.get(number, []):
            self._calls[source] = replace(self._calls[source], result=None, kept=False)
            self._forget_sources(source)

    def add_write(self, func: Any, reads: frozenset[int], written: Tensor, result: Any) -> None:
        """Keep a call that wrote in place: it need not be repeated where nobody saw what was there before."""
        alone = reads - _storages([written]) <= self._constant
        settled = alone and result is written and self._settled(written)
        self._calls.append(_Call(func, reads, None, settled))

    def before_write(self, written: Tensor, inputs: tuple[Tensor, ...]) -> None:
        """Remember what an operator that writes in place may overwrite."""
        others = _storages(inputs) - _storages([written])
        if others <= self._constant and self._settled(written):
            return
        for tensor in inputs:
            storage = tensor.untyped_storage()
            if storage.data_ptr() in self._clean and storage.data_ptr() not in self._originals:
                self._originals[storage.data_ptr()] = (storage, storage.clone())
                self.kept_bytes += storage.nbytes()

    def _settled(self, written: Tensor) -> bool:
        """Whether a recorded result was read by nobody yet: what is written now is what all will read."""
        storage = written.untyped_storage().data_ptr()
        return storage in self._clean and storage not in self._read and storage not in self._originals

    def replayed(self, number: int, func: Any) -> _Call:
        """The call of the first run that has the number, if it is of the same operator."""
        if number >= len(self._calls) or self._calls[number].func is not func:
            raise DivergedError(str(func))
        return self._calls[number]

    def clean(self, changed: set[int]) -> set[int]:
        """Storages that hold what they did in the first run."""
        return self._clean - changed


def _without_memory(tensor: Tensor) -> Tensor:
    found = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)
    found.untyped_storage().resize_(0)
    return found


class _Recorder(TorchDispatchMode):
    def __init__(self, recording: Recording, watch: Watch | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._recording = recording
        self._watch = watch
        self._next = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        inputs = _tensors((args, kwargs))
        if self._watch is not None:
            self._watch(self._next, func, args)
        self._next += 1
        if not func._schema.is_mutable:
            result = func(*args, **kwargs)
            self._recording.add(func, frozenset(_storages(inputs)), result)
            return result
        written = args[0] if args and isinstance(args[0], Tensor) else inputs[0]
        self._recording.before_write(written, inputs)
        result = func(*args, **kwargs)
        self._recording.add_write(func, frozenset(_storages(inputs)), written, result)
        return result


class _Replayer(TorchDispatchMode):
    def __init__(
        self, recording: Recording, changed: set[int], substitute: Substitute | None, stop: int | None
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._recording = recording
        self._clean = recording.clean(changed)
        self._substitute = substitute
        self._stop = stop
        self._next = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, number = kwargs or {}, self._next
        if self._stop is not None and number > self._stop:
            raise _StoppedError
        call = self._recording.replayed(number, func)
        self._next += 1
        inputs = _tensors((args, kwargs))
        unchanged = _storages(inputs) <= self._clean
        if func._schema.is_mutable:
            if unchanged and call.kept:
                return args[0]
            if not unchanged:
                self._clean -= _storages(inputs)
            return func(*args, **kwargs)
        if unchanged and call.kept:
            return call.result
        if not unchanged and self._substitute is not None:
            result = self._substitute(number, func, args)
            if result is not None:
                return result
        return func(*args, **kwargs)
