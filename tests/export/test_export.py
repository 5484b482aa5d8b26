"""Exported files give what PyTorch gives, at any batch size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from knapsack_prune.errors import RequestError
from knapsack_prune.export.exporting import export_network, load_exported
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
