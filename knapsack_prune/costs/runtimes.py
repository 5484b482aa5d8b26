"""What runs a network while it is timed: PyTorch as it is, torch.compile, or ONNX Runtime."""

from __future__ import annotations

import importlib.util
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from knapsack_prune.costs.latency_table import Runtime
from knapsack_prune.errors import RequestError
from knapsack_prune.networks.example import Example

PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def require_runtime(runtime: Runtime, device: str, dtype: str) -> None:
    """Refuse a runtime that cannot run here, before anything is measured.

    Raises:
        RequestError: its packages are missing, or it runs on another device or type.
    """
    if runtime != "onnxruntime":
        return
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise RequestError(
            f"`runtime` onnxruntime needs {missing[0]}, which is not installed: pip install 'knapsack-prune[export]', "
            "or choose eager"
        )
    if device != "cpu" or dtype != "float32":
        raise RequestError(
            f"`runtime` onnxruntime is measured on the CPU in float32, not on {device} in {dtype}: choose those, or "
            "another runtime"
        )


@contextmanager
def runner(model: nn.Module, example: Example, runtime: Runtime) -> Iterator[Callable[[], Any]]:
    """What runs a network once on an example; compiled or exported before it is given.

    Args:
        model: in evaluation mode.
        example: what it is called with.
        runtime: what runs it.
    """
    if runtime == "eager":
        yield lambda: example.run(model)
    elif runtime == "compile":
        compiled = torch.compile(model, dynamic=False)
        try:
            yield lambda: compiled(*example.args, **example.kwargs)
        finally:
            torch._dynamo.reset()  # compiled code of earlier networks counts against a limit
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield _onnx(model, example, Path(folder) / "network.onnx")


def _onnx(model: nn.Module, example: Example, path: Path) -> Callable[[], Any]:
    import onnxruntime

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about its own deprecated inner calls
        torch.onnx.export(
            model, example.args, str(path), kwargs=dict(example.kwargs), external_data=False, verbose=False
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    given = [tensor.numpy() for tensor in example.tensors]
    named = {entry.name: array for entry, array in zip(session.get_inputs(), given, strict=True)}
    return lambda: session.run(None, named)
