"""timm's format of pruned networks: the shapes of all parameters as text, from which timm rebuilds the network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from knapsack_prune.errors import RequestError
from knapsack_prune.files import write_atomically, write_text

PREFIX = "timm:"
TOLERANCE = 1e-5


def export_timm(network: nn.Module, name: str, input_shape: Sequence[int], stem: Path) -> tuple[Path, Path]:
    """Write `STEM.timm.txt` and `STEM.timm.safetensors`, once timm has rebuilt the network from them.

    Args:
        network: the slim network; left as it is.
        name: of its parent, `timm:NAME`.
        input_shape: of one input, without batch.
        stem: where the files go.

    Raises:
        RequestError: the parent is not timm's, or timm rebuilds another network: its format knows convolutions
            (grouped ones as depthwise), batch norms and linear layers.
    """
    if not name.startswith(PREFIX):
        raise RequestError(
            f"`timm` writes networks of timm, and the parent is {name}: give a plan of timm:NAME"
        )
    import timm
    from timm.models._prune import adapt_model_from_string

    network = network.cpu().eval()
    state = {key: value.detach().contiguous().clone() for key, value in network.state_dict().items()}
    text = "***".join(f"{key}:{list(value.shape)}" for key, value in state.items())
    example = torch.randn(2, *input_shape, generator=torch.Generator().manual_seed(0))
    try:
        classes = next(
            value.shape[0] for key, value in reversed(state.items()) if key.endswith((".weight", ".bias"))
        )
        parent = timm.create_model(name.removeprefix(PREFIX), num_classes=int(classes))
        rebuilt = adapt_model_from_string(parent, text).eval()  # type: ignore[no-untyped-call]
        rebuilt.load_state_dict(state)
        with torch.no_grad():
            expected = network(example)
            worst = float((rebuilt(example) - expected).abs().max() / expected.abs().max().clamp(min=1e-12))
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise RequestError(
            f"timm cannot rebuild {name} at these widths ({reason}): use `format` pt2 or onnx"
        ) from error
    if not worst <= TOLERANCE:
        raise RequestError(
            f"timm rebuilds {name} with outputs that differ by {worst:.1e}, above {TOLERANCE:.0e}: use `format` pt2 or "
            "onnx"
        )
    shapes, weights = stem.with_name(f"{stem.name}.timm.txt"), stem.with_name(f"{stem.name}.timm.safetensors")
    write_text(shapes, text)
    write_atomically(weights, lambda waiting: save_file(state, waiting))
    return shapes, weights
