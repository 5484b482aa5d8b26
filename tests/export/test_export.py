"""Exported files give what PyTorch gives, at any batch size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from knapsack_prune.errors import RequestError
from knapsack_prune.export.exporting import export_network, load_exported
from knapsack_prune.networks.example import Example, output_tensors
from knapsack_prune.settings.export import ExportFormat


def _network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))


@pytest.mark.parametrize("kind", ["onnx", "pt2"])
def test_exported_files_agree_with_pytorch(tmp_path: Path, kind: ExportFormat) -> None:
    network = _network()
    found = export_network(network, (3, 8, 8), tmp_path / f"net.{kind}", kind, batch=(1, 3), seconds=0.01)
    assert found.max_error < 1e-5
    assert found.bytes == found.path.stat().st_size
    assert set(found.timings) == {1, 3}
    assert found.timings[3].median_ms > 0
    images = torch.randn(7, 3, 8, 8)  # a batch size that the exporter never saw
    with torch.no_grad():
        torch.testing.assert_close(load_exported(found.path)(images), network(images), rtol=1e-4, atol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == [f"net.{kind}"]


class _Loose(nn.Module):
    """Asks for a value while it runs, which no exporter can follow."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) * (2.0 if float(x.sum()) > 0 else 3.0)


def test_a_network_that_cannot_be_exported_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="cannot be exported to pt2") as caught:
        export_network(_Loose(), (3, 8, 8), tmp_path / "net.pt2", "pt2")
    assert len(str(caught.value).splitlines()) == 1
    assert not list(tmp_path.iterdir())


class _Random(nn.Module):
    """Gives another answer every time, so that the exported file cannot agree."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) + torch.rand_like(x.flatten(1))


def test_a_file_that_disagrees_is_not_kept(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"differs from PyTorch's by .* it was not kept"):
        export_network(_Random(), (3, 8, 8), tmp_path / "net.pt2", "pt2")
    assert not list(tmp_path.iterdir())


class _Tokens(nn.Module):
    """Whole numbers, and a mask by name that weights them."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(9, 8), nn.Linear(8, 4)

    def forward(self, tokens: Tensor, *, mask: Tensor | None = None) -> dict[str, Tensor]:
        hidden = self.table(tokens)
        hidden = hidden if mask is None else hidden * mask[..., None]
        return {"logits": self.head(hidden), "pooled": hidden.mean(1)}


class _Pair(nn.Module):
    """An image and a vector, in one tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(5, 4)

    def forward(self, pair: tuple[Tensor, Tensor], scale: float) -> Tensor:
        return self.conv(pair[0]).mean((2, 3)) + scale * self.fc(pair[1])


class _OneByOne(nn.Module):
    """Code that takes one example only."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.reshape(1, 6))


TOKENS = {"tokens": torch.tensor([[1, 2, 8, 0]]), "mask": torch.ones(1, 4)}


@pytest.mark.parametrize("kind", ["onnx", "pt2"])
@pytest.mark.parametrize(
    ("make", "example", "other"),
    [
        (_Tokens, TOKENS, {"tokens": torch.randint(0, 9, (7, 4)), "mask": torch.rand(7, 4)}),
        (
            _Pair,
            ((torch.zeros(1, 3, 6, 6), torch.zeros(1, 5)), 0.5),
            ((torch.rand(7, 3, 6, 6), torch.rand(7, 5)), 0.5),
        ),
    ],
)
def test_networks_of_other_inputs_than_one_image(
    tmp_path: Path, kind: ExportFormat, make: Callable[[], nn.Module], example: object, other: object
) -> None:
    network = make()
    found = export_network(network, example, tmp_path / f"net.{kind}", kind, batch=(1, 3), seconds=0.01)
    assert found.batch is None and set(found.timings) == {1, 3} and found.max_error < 1e-5
    call = Example.of(other)  # of a batch size that the exporter never saw
    with torch.no_grad():
        ours = output_tensors(load_exported(found.path)(*call.args, **call.kwargs))
        torch.testing.assert_close(ours, output_tensors(call.run(network)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["onnx", "pt2"])
def test_code_that_takes_one_batch_size_is_exported_for_that(tmp_path: Path, kind: ExportFormat) -> None:
    found = export_network(
        _OneByOne(), torch.zeros(1, 2, 3), tmp_path / f"net.{kind}", kind, batch=(4,), seconds=0.01
    )
    assert found.batch == 1 and set(found.timings) == {1}


def test_a_part_is_exported_alone(tmp_path: Path) -> None:
    network = nn.ModuleDict({"body": _network()})
    example = Example((torch.zeros(1, 3, 8, 8),), {}, "body")
    found = export_network(network, example, tmp_path / "net.pt2", "pt2", batch=())
    with torch.no_grad():
        images = torch.rand(2, 3, 8, 8)
        torch.testing.assert_close(load_exported(found.path)(images), network["body"](images))


def test_an_example_that_the_network_refuses_is_told(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="the network refuses an input of shape 2,8,8"):
        export_network(_network(), (2, 8, 8), tmp_path / "net.pt2", "pt2")
