"""Export to ONNX and to torch.export's `.pt2`, each checked against PyTorch's output, and timed."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from knapsack_prune.costs.timing import Timing, time_call
from knapsack_prune.errors import RequestError
from knapsack_prune.files import write_atomically, write_json
from knapsack_prune.networks.example import Example, check_example, output_tensors
from knapsack_prune.settings.export import ExportFormat, ExportSettings

CHECKED_BATCHES = (1, 2, 5)
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Exported:
    """One exported file.

    Attributes:
        format: `onnx` or `pt2`.
        path: where it is.
        bytes: its size.
        batch: the one batch size that it takes; None where it takes any.
        max_error: largest difference of its outputs from PyTorch's, relative to PyTorch's largest output, over
            batches of 1, 2 and 5 examples, or the one that it takes.
        timings: per batch size, how long it takes.
        pytorch: per batch size, how long the network takes in eager PyTorch.
    """

    format: ExportFormat
    path: Path
    bytes: int
    batch: int | None
    max_error: float
    timings: dict[int, Timing]
    pytorch: dict[int, Timing]

    def record(self) -> dict[str, Any]:
        """As plain values; the file by its name, beside which the record lies."""
        return asdict(self) | {"path": self.path.name}


def export_network(
    network: nn.Module,
    example: Any,
    path: Path,
    format: ExportFormat,
    settings: ExportSettings | None = None,
    **given: Any,
) -> Exported:
    """Export a network, load the file again, check its outputs and time it.

    Its batch is dynamic where the network runs on other batches than the example's and can be exported so; else the
    file takes the example's own.

    Args:
        network: moved to the CPU and put in evaluation mode; parameters are untouched.
        example: what it is called with, as for `trace`; or the shape of one image, as in (3, 224, 224). Of an example
            of a part of the network, that part is exported.
        path: the file to write; written whole or not at all.
        format: `onnx` (run with ONNX Runtime) or `pt2` (run with torch.export).
        settings: how it is timed.
        given: fields of `ExportSettings` by name, instead of the settings' own.

    Raises:
        RequestError: the network refuses the example, the exporter refuses the network, a package is missing, or
            outputs differ by more than 1e-3.
    """
    settings = ExportSettings.of(settings, **given)
    network = network.cpu().eval()
    shape = isinstance(example, tuple | list) and example and all(type(size) is int for size in example)
    call = (Example.zeros(example) if shape else Example.of(example)).like(network)
    check_example(network, call)
    network, call = network.get_submodule(call.submodule), replace(call, submodule="")
    write, load = _FORMATS[format]
    batch = None if _takes_any_batch(network, call) else call.batch

    def written(size: int | None) -> None:
        write_atomically(path, lambda waiting: write(_program(network, call, dynamic=size is None), waiting))

    try:
        try:
            written(batch)
        except Exception:
            if batch is not None:
                raise
            batch = call.batch
            written(batch)
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise RequestError(
            f"the network cannot be exported to {format} ({reason[0]}): try the other of "
            f"{', '.join(_FORMATS)}"
        ) from error
    run = load(path)
    with torch.no_grad():
        calls = [_call(call, size) for size in (CHECKED_BATCHES if batch is None else (batch,))]
        differences = [_difference(network, run, checked) for checked in calls]
        worst = max(differences)
        if not all(difference <= TOLERANCE for difference in differences):
            path.unlink()
            raise RequestError(
                f"the {format} file's output differs from PyTorch's by {worst:.1e}, above {TOLERANCE:.0e}: "
                f"it was "
                f"not kept; try the other of {', '.join(_FORMATS)}"
            )
        cpu = torch.device("cpu")
        timings: dict[int, Timing] = {}
        pytorch: dict[int, Timing] = {}
        for size in settings.batch if batch is None else settings.batch and (batch,):
            timed = _call(call, size)
            for times, runner in ((timings, run), (pytorch, network)):
                times[size] = time_call(
                    lambda timed=timed, runner=runner: runner(*timed.args, **timed.kwargs),  # type: ignore[misc]
                    cpu,
                    settings.seconds,
                )
    return Exported(format, path, path.stat().st_size, batch, worst, timings, pytorch)


Runner = Callable[..., Any]


def export_all(
    networks: Mapping[str, nn.Module], example: Example, directory: Path, settings: ExportSettings
) -> dict[str, list[Exported]]:
    """Export networks in every format asked for, as `DIRECTORY/NAME.FORMAT`, with `export.json` beside them."""
    require_packages(settings)
    exported = {
        name: [
            export_network(network, example, directory / f"{name}.{kind}", kind, settings)
            for kind in settings.format
        ]
        for name, network in networks.items()
    }
    records = {name: [one.record() for one in entries] for name, entries in exported.items()}
    write_json(directory / "export.json", records)
    return exported


def load_exported(path: Path) -> Runner:
    """A function that is called as the network is, from an exported file (by its suffix).

    That of an ONNX file gives its one output tensor, or a tuple of all.
    """
    for name, (_, load) in _FORMATS.items():
        if path.suffix == f".{name}":
            return load(path)
    raise RequestError(
        f"{path} ends in {path.suffix!r}: an export ends in one of {', '.join(f'.{name}' for name in _FORMATS)}"
    )


def _call(example: Example, batch: int) -> Example:
    return example.batched(batch).informative(seed=batch)


def _takes_any_batch(network: nn.Module, example: Example) -> bool:
    """Whether a network runs on another batch than the example's, and gives as many outputs."""
    sizes = example.batch, max(2, example.batch) + 1
    try:
        with torch.no_grad():
            outputs = [output_tensors(_call(example, size).run(network)) for size in sizes]
    except Exception:
        return False
    return all(
        one.dim() == other.dim() and (one.shape == other.shape or (len(one), len(other)) == sizes)
        for one, other in zip(*outputs, strict=False)
    )


def _difference(network: nn.Module, run: Runner, example: Example) -> float:
    """The largest difference of outputs, relative to the largest of each tensor."""
    difference = 0.0
    theirs = output_tensors(run(*example.args, **example.kwargs))
    for expected, other in zip(output_tensors(example.run(network)), theirs, strict=True):
        if expected.numel():
            apart = torch.where(other == expected, 0.0, (other.double() - expected.double()).abs())
            largest = expected.double().abs().nan_to_num(posinf=0.0, neginf=0.0).max()
            difference = max(difference, float(apart.max() / largest.clamp(min=1e-12)), key=_nan_last)
    return difference


def _nan_last(number: float) -> float:
    return float("inf") if number != number else number


def _program(network: nn.Module, example: Example, *, dynamic: bool) -> torch.export.ExportedProgram:
    """A network as torch.export gives it, with the first dimension of all that counts examples open."""
    # An example of one would be taken for a size that is always 1.
    call = _call(example, max(2, example.batch) if dynamic else example.batch).map(torch.clone)
    shapes = torch.export.ShapesCollection()
    batch = torch.export.Dim("batch", min=1)
    for tensor, one in zip(call.tensors, example.tensors, strict=True):
        shapes[tensor] = {0: batch} if dynamic and one.dim() and len(one) == example.batch else {}
    return torch.export.export(network, call.args, dict(call.kwargs), dynamic_shapes=shapes, strict=False)


def _write_pt2(program: torch.export.ExportedProgram, path: Path) -> None:
    with path.open("wb") as stream:
        torch.export.save(program, stream)


def _load_pt2(path: Path) -> Runner:
    with path.open("rb") as stream, warnings.catch_warnings():
        # torch 2.11 makes tensors from bytes that it never writes to, and warns that it could.
        warnings.filterwarnings("ignore", "The given buffer is not writable", UserWarning)
        module = torch.export.load(stream).module()

    def run(*args: Any, **kwargs: Any) -> Any:
        with torch.no_grad():
            return module(*args, **kwargs)

    return run


def _write_onnx(program: torch.export.ExportedProgram, path: Path) -> None:
    example = Example(*program.example_inputs)
    images = len(example.args) == len(program.graph_signature.user_outputs) == 1 and all(
        tensor.is_floating_point() and tensor.dim() == 4 for tensor in example.tensors
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about its own deprecated inner calls
        torch.onnx.export(
            program,
            (),
            str(path),
            input_names=["images"] if images else None,
            output_names=["logits"] if images else None,
            external_data=False,
            verbose=False,
        )
    _name_batch(path)


def _name_batch(path: Path) -> None:
    """Call the one dynamic axis `batch`, in all that a file says of shapes; torch gives it a number."""
    import onnx

    model = onnx.load(str(path))
    axes = (dim.dim_param for value in model.graph.input for dim in value.type.tensor_type.shape.dim)
    given = next(filter(None, axes), "batch")
    if given == "batch":
        return
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = re.sub(rf"\b{re.escape(given)}\b", "batch", dim.dim_param)
    onnx.save(model, str(path))


def _load_onnx(path: Path) -> Runner:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]

    def run(*args: Any, **kwargs: Any) -> Any:
        named = {name: value for name, value in kwargs.items() if name in names}
        others = Example(args, {name: value for name, value in kwargs.items() if name not in named}).tensors
        waiting = [name for name in names if name not in named]
        feeds = {**named, **dict(zip(waiting, others, strict=True))}
        outputs = session.run(None, {name: tensor.numpy() for name, tensor in feeds.items()})
        tensors = tuple(torch.from_numpy(output) for output in outputs)
        return tensors[0] if len(tensors) == 1 else tensors

    return run


def require_packages(settings: ExportSettings) -> None:
    """Refuse a format whose packages are not installed, before anything is done; `RequestError`."""
    missing = missing_package(settings)
    if missing is not None:
        raise RequestError(
            f"`format` onnx needs {missing}, which is not installed: pip install 'knapsack-prune[export]', or give "
            "`format` pt2"
        )


def missing_package(settings: ExportSettings) -> str | None:
    """The first package that a format needs and that is not installed."""
    needed = ("onnx", "onnxscript", "onnxruntime") if "onnx" in settings.format else ()
    return next((package for package in needed if find_spec(package) is None), None)


_FORMATS: dict[
    ExportFormat, tuple[Callable[[torch.export.ExportedProgram, Path], None], Callable[[Path], Runner]]
] = {
    "onnx": (_write_onnx, _load_onnx),
    "pt2": (_write_pt2, _load_pt2),
}
