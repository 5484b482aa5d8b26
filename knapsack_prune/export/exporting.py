"""Export to ONNX and to torch.export's `.pt2`, each checked against PyTorch's output, and timed."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from knapsack_prune.costs.timing import Timing, time_call
from knapsack_prune.errors import RequestError
from knapsack_prune.files import write_atomically, write_json
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
        max_error: largest difference of its output from PyTorch's, relative to PyTorch's largest output, over
            batches of 1, 2 and 5 images.
        timings: per batch size, how long it takes.
        pytorch: per batch size, how long the network takes in eager PyTorch.
    """

    format: ExportFormat
    path: Path
    bytes: int
    max_error: float
    timings: dict[int, Timing]
    pytorch: dict[int, Timing]

    def record(self) -> dict[str, Any]:
        """As plain values; the file by its name, beside which the record lies."""
        return asdict(self) | {"path": self.path.name}


def export_network(
    network: nn.Module,
    input_shape: Sequence[int],
    path: Path,
    format: ExportFormat,
    settings: ExportSettings | None = None,
    **given: Any,
) -> Exported:
    """Export a network with a dynamic batch dimension, load the file again, check its output and time it.

    Args:
        network: moved to the CPU and put in evaluation mode; parameters are untouched.
        input_shape: of one input, without batch.
        path: the file to write; written whole or not at all.
        format: `onnx` (run with ONNX Runtime) or `pt2` (run with torch.export).
        settings: how it is timed.
        given: fields of `ExportSettings` by name, instead of the settings' own.

    Raises:
        RequestError: the exporter refuses the network, a package is missing, or outputs differ by more than
        1e-3.
    """
    settings = ExportSettings.of(settings, **given)
    network = network.cpu().eval()
    generator = torch.Generator().manual_seed(0)

    def images(batch: int) -> Tensor:
        return torch.randn(batch, *input_shape, generator=generator)

    write, load = _FORMATS[format]
    try:
        write_atomically(path, lambda waiting: write(network, images(2), waiting))
    except RequestError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise RequestError(
            f"the network cannot be exported to {format} ({reason[0]}): try the other of "
            f"{', '.join(_FORMATS)}"
        ) from error
    run = load(path)
    with torch.no_grad():
        differences = [_difference(network, run, images(batch)) for batch in CHECKED_BATCHES]
        worst = max(differences)
        if not all(difference <= TOLERANCE for difference in differences):
            path.unlink()
            raise RequestError(
                f"the {format} file's output differs from PyTorch's by {worst:.1e}, above {TOLERANCE:.0e}: "
                f"it was "
                f"not kept; try the other of {', '.join(_FORMATS)}"
            )
        cpu = torch.device("cpu")
        timings, pytorch = {}, {}
        for batch in settings.batch:
            example = images(batch)
            timings[batch] = time_call(lambda example=example: run(example), cpu, settings.seconds)  # type: ignore[misc]
            pytorch[batch] = time_call(lambda example=example: network(example), cpu, settings.seconds)  # type: ignore[misc]
    return Exported(format, path, path.stat().st_size, worst, timings, pytorch)


Runner = Callable[[Tensor], Tensor]


def export_all(
    networks: Mapping[str, nn.Module], input_shape: Sequence[int], directory: Path, settings: ExportSettings
) -> dict[str, list[Exported]]:
    """Export networks in every format asked for, as `DIRECTORY/NAME.FORMAT`, with `export.json` beside them."""
    require_packages(settings)
    exported = {
        name: [
            export_network(network, input_shape, directory / f"{name}.{kind}", kind, settings)
            for kind in settings.format
        ]
        for name, network in networks.items()
    }
    records = {name: [one.record() for one in entries] for name, entries in exported.items()}
    write_json(directory / "export.json", records)
    return exported


def load_exported(path: Path) -> Runner:
    """A function from images to logits, from an exported file (by its suffix)."""
    for name, (_, load) in _FORMATS.items():
        if path.suffix == f".{name}":
            return load(path)
    raise RequestError(
        f"{path} ends in {path.suffix!r}: an export ends in one of {', '.join(f'.{name}' for name in _FORMATS)}"
    )


def _difference(network: nn.Module, run: Runner, images: Tensor) -> float:
    expected = network(images)
    return float((run(images) - expected).abs().max() / expected.abs().max().clamp(min=1e-12))


def _dynamic(network: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    return torch.export.export(
        network, (example,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},), strict=False
    )


def _write_pt2(network: nn.Module, example: Tensor, path: Path) -> None:
    with path.open("wb") as stream:
        torch.export.save(_dynamic(network, example), stream)


def _load_pt2(path: Path) -> Runner:
    with path.open("rb") as stream, warnings.catch_warnings():
        # torch 2.11 makes tensors from bytes that it never writes to, and warns that it could.
        warnings.filterwarnings("ignore", "The given buffer is not writable", UserWarning)
        module = torch.export.load(stream).module()

    def run(images: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = module(images)
        return logits

    return run


def _write_onnx(network: nn.Module, example: Tensor, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about its own deprecated inner calls
        torch.onnx.export(
            _dynamic(network, example),
            (),
            str(path),
            input_names=["images"],
            output_names=["logits"],
            external_data=False,
            verbose=False,
        )
    _name_batch(path)


def _name_batch(path: Path) -> None:
    """Call the one dynamic axis `batch`, in all that a file says of shapes; torch gives it a number."""
    import onnx

    model = onnx.load(str(path))
    given = model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    if given in ("", "batch"):
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
    name = session.get_inputs()[0].name

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {name: images.numpy()})[0])

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


_FORMATS: dict[ExportFormat, tuple[Callable[[nn.Module, Tensor, Path], None], Callable[[Path], Runner]]] = {
    "onnx": (_write_onnx, _load_onnx),
    "pt2": (_write_pt2, _load_pt2),
}
