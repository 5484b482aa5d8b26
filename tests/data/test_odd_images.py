"""Images as they are met: other modes, huge, broken, or none at all."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from knapsack_prune.data import calibration_loader, open_source
from knapsack_prune.data import images as module
from knapsack_prune.data.images import FileImages, UnreadableImageError
from knapsack_prune.errors import RequestError


def _read(path: Path) -> torch.Tensor:
    return FileImages((path,), torch.zeros(1, dtype=torch.int64)).read(0)


def test_sixteen_bits_keep_their_shades(tmp_path: Path) -> None:
    shades = np.array([[0, 0x4000], [0x8000, 0xFFFF]], dtype=np.uint16)
    Image.fromarray(shades).save(tmp_path / "a.png")
    assert _read(tmp_path / "a.png")[0].tolist() == [[0, 0x40], [0x80, 0xFF]]


def test_large_images_are_reduced_and_others_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("png", "jpeg"):
        Image.new("RGB", (64, 32), (10, 20, 30)).save(tmp_path / f"a.{kind}")
        assert _read(tmp_path / f"a.{kind}").shape == (3, 32, 64)
    monkeypatch.setattr(module, "MOST_PIXELS", 512)
    assert _read(tmp_path / "a.png").shape == (3, 16, 32)
    assert _read(tmp_path / "a.jpeg").shape == (3, 16, 32)
    monkeypatch.setattr(module, "MOST_DECODED", 2000)
    with pytest.raises(UnreadableImageError, match="64 x 32 pixels are more than the 2,000"):
        _read(tmp_path / "a.png")


def test_what_no_decoder_takes_is_unreadable_and_named(tmp_path: Path) -> None:
    """Story: a PNG of 20000 x 20000 ended `plan` in a DecompressionBombError."""
    Image.new("1", (20000, 20000)).save(tmp_path / "bomb.png")
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "floats.tiff")
    (tmp_path / "nothing.png").touch()
    os.mkfifo(tmp_path / "pipe.png")
    for name in ("bomb.png", "floats.tiff", "nothing.png", "pipe.png", "absent.png"):
        with pytest.raises(UnreadableImageError, match=name):
            _read(tmp_path / name)


def test_scoring_names_what_it_leaves_out_and_needs_every_class(tmp_path: Path) -> None:
    for label in "ab":
        (tmp_path / label).mkdir()
        for number in range(4):
            Image.new("RGB", (8, 8)).save(tmp_path / label / f"{number}.png")
    (tmp_path / "a" / "0.png").write_bytes(b"")
    loader = calibration_loader(open_source(str(tmp_path)), 8, 0, 4, (3, 8, 8))
    assert sum(len(labels) for _, labels in loader) == 7
    assert "a/0.png" in loader.left_out().sentence()
    for number in range(4):
        (tmp_path / "b" / f"{number}.png").write_bytes(b"")
    loader = calibration_loader(open_source(str(tmp_path)), 8, 0, 4, (3, 8, 8))
    with pytest.raises(RequestError, match="no image of class 1 can be read, for example"):
        list(loader)
