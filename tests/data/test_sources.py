"""Folders, torchvision datasets, and what may be wrong with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from knapsack_prune.data import Normalisation, Preparation, open_source, require_classes
from knapsack_prune.data.batches import Delivery, evaluation_batches, training_data
from knapsack_prune.data.images import Unreadable
from knapsack_prune.data.source import IMAGENET
from knapsack_prune.errors import RequestError
from knapsack_prune.settings import AugmentationSettings

CPU = torch.device("cpu")


def _write(path: Path, value: int, size: tuple[int, int] = (8, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), value, dtype=np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of four training and two test images; an image's grey value names it."""
    for part, count in (("train", 4), ("test", 2)):
        for label in range(2):
            for index in range(count):
                _write(tmp_path / part / f"class{label}" / f"{index}.png", 100 * label + index)
    return tmp_path


def _break(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])


def _evaluated(folder: Path, cache: bool, workers: int = 0):  # type: ignore[no-untyped-def]
    source = open_source(str(folder))
    preparation = Preparation.to_shape((3, 8, 8), source.normalisation)
    batches = evaluation_batches(source.test_images(), preparation, Delivery(CPU, cache, workers), 3)
    labels = torch.cat([labels for _, labels in batches])
    missing = Unreadable.of(source.test_images(), batches.missing())
    return [label for label in labels.tolist() if label >= 0], missing


def test_a_folder_has_its_classes_and_parts(folder: Path) -> None:
    source = open_source(str(folder))
    assert source.classes == ("class0", "class1")
    assert source.train.labels.tolist() == [0] * 4 + [1] * 4
    assert int(source.test_images().read(3)[0, 0, 0]) == 101


@pytest.mark.parametrize("cache", [False, True])
def test_an_unreadable_test_image_is_named_and_left_out(folder: Path, cache: bool) -> None:
    _break(folder / "test" / "class1" / "0.png")
    labels, missing = _evaluated(folder, cache)
    assert labels == [0, 0, 1]
    assert missing.count == 1
    assert "class1/0.png" in missing.sentence()
    assert "1 of 4" in missing.sentence()


@pytest.mark.parametrize(("cache", "workers"), [(False, 0), (False, 1), (True, 0)])
def test_an_unreadable_training_image_is_replaced_by_one_of_its_class(
    folder: Path, cache: bool, workers: int
) -> None:
    _break(folder / "train" / "class1" / "2.png")
    source = open_source(str(folder))
    preparation = Preparation.to_shape((3, 8, 8), source.normalisation)
    still = AugmentationSettings(crop=False, mirror=False)
    data = training_data(source.train, preparation, still, True, Delivery(CPU, cache, workers), 8, 1, 0)
    (images, labels), *_ = data.batches.epoch(0)
    grey = (images[:, 0, 0, 0] * 0.229 + 0.485) * 255
    assert sorted(grey.round().int().tolist()) == [0, 1, 2, 3, 100, 101, 103, 103]
    assert sorted(labels.tolist()) == [0] * 4 + [1] * 4
    assert data.batches.unreadable().count == 1


@pytest.mark.parametrize(("cache", "workers"), [(False, 0), (False, 1), (True, 0)])
def test_a_folder_of_unreadable_images_is_refused(folder: Path, cache: bool, workers: int) -> None:
    for path in (folder / "train").rglob("*.png"):
        _break(path)
    source = open_source(str(folder))
    preparation = Preparation.to_shape((3, 8, 8), source.normalisation)

    def deliver() -> None:
        where = Delivery(CPU, cache, workers)
        data = training_data(source.train, preparation, AugmentationSettings(), True, where, 8, 1, 0)
        list(data.batches.epoch(0))

    with pytest.raises(RequestError, match="can be read") as caught:
        deliver()
    assert len(str(caught.value).splitlines()) == 1


def test_cached_and_streamed_images_are_the_same(folder: Path) -> None:
    _write(folder / "test" / "class0" / "large.png", 40, size=(30, 20))
    source = open_source(str(folder))
    preparation = Preparation.to_shape((3, 8, 8), source.normalisation)
    found = [
        torch.cat([images for images, _ in evaluation_batches(source.test_images(), preparation, where, 2)])
        for where in (Delivery(CPU, True), Delivery(CPU, False, 0), Delivery(CPU, False, 1))
    ]
    assert found[0].shape == (5, 3, 8, 8)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize(
    "augmentation",
    [
        AugmentationSettings(),
        AugmentationSettings(rand_augment=5, erasing=0.5),
        AugmentationSettings(crop=False),
        AugmentationSettings(crop=False, mirror=False),
    ],
)
def test_cached_and_streamed_training_images_are_the_same(
    folder: Path, augmentation: AugmentationSettings
) -> None:
    # Both used to draw in their own way: a run continued under another cache saw other crops.
    generator = np.random.default_rng(0)
    for path in sorted((folder / "train").rglob("*.png")):
        Image.fromarray(generator.integers(0, 255, (11, 9, 3), dtype=np.uint8)).save(path)
    _write(folder / "train" / "class0" / "fits.png", 40)
    source = open_source(str(folder))
    preparation = Preparation.to_shape((3, *((11, 9) if augmentation.crop else (8, 8))), source.normalisation)
    epochs = [
        list(training_data(source.train, preparation, augmentation, True, where, 3, 1, 7).batches.epoch(1))
        for where in (Delivery(CPU, True), Delivery(CPU, False, 0), Delivery(CPU, False, 1))
    ]
    assert len(epochs[0]) == 3
    for batches in zip(*epochs, strict=True):
        (images, labels), *others = batches
        for theirs, their_labels in others:
            assert torch.equal(images, theirs)
            assert images.stride() == theirs.stride()
            assert torch.equal(labels, their_labels)


def test_cached_crops_are_windows_of_the_padded_image() -> None:
    source = open_source("digits")
    preparation = Preparation.to_shape((1, 8, 8), source.normalisation)
    data = training_data(
        source.train, preparation, AugmentationSettings(), False, Delivery(CPU, True), 16, 1, 0
    )
    images, _ = next(iter(data.batches.epoch(0)))
    chosen = next(iter(data.schedule.batches(0)))
    padded = torch.nn.functional.pad(source.train.images[chosen].float() / 16, (1, 1, 1, 1))  # type: ignore[attr-defined]
    shifts = set()
    for image, wide in zip(images, padded, strict=True):
        fits = [
            (r, c) for r in range(3) for c in range(3) if torch.equal(wide[:, r : r + 8, c : c + 8], image)
        ]
        assert fits
        shifts.add(fits[0])
    assert len(shifts) > 3


def test_images_are_normalised_as_the_network_was_trained(folder: Path) -> None:
    timm = pytest.importorskip("timm")
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=2)
    plain = torch.nn.Linear(1, 1)
    asked = Normalisation((0.1,) * 3, (0.2,) * 3)
    assert open_source(str(folder), model=vit).normalisation == Normalisation((0.5,) * 3, (0.5,) * 3)
    assert open_source(str(folder), model=plain).normalisation == IMAGENET
    assert open_source(str(folder), normalisation=asked, model=vit).normalisation == asked
    assert open_source("digits", model=vit).normalisation == open_source("digits").normalisation


def test_a_torchvision_dataset_is_opened_by_name(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 6), ("t10k", 3)):
        header = np.array([0x803, count, 28, 28], dtype=">i4").tobytes()
        (raw / f"{part}-images-idx3-ubyte").write_bytes(header + bytes(range(count)) * 784)
        header = np.array([0x801, count], dtype=">i4").tobytes()
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(header + bytes(range(count)))
    source = open_source("torch/mnist", tmp_path)
    assert source.train.labels.tolist() == [0, 1, 2, 3, 4, 5]
    assert len(source.test_images().labels) == 3
    assert source.train.read(0).shape == (1, 28, 28)
    assert not source.mirror  # a mirrored digit is another sign


def test_wrong_sources_are_refused_in_one_sentence(folder: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    partial = tmp_path / "partial"
    _write(partial / "train" / "a" / "0.png", 0)
    (partial / "train" / "b").mkdir()
    unequal = tmp_path / "unequal"
    for name in ("train/a/0.png", "train/b/0.png", "test/a/0.png"):
        _write(unequal / name, 0)
    cases = {
        str(tmp_path / "none"): "is no folder",
        str(empty): "no class",
        str(partial): "without images",
        str(unequal): "1 differ: b",
        "torch/cifar11": "no dataset 'cifar11'",
        "torch/mnist": "neither found",
    }
    for spec, reason in cases.items():
        with pytest.raises(RequestError, match=reason) as caught:
            open_source(spec, tmp_path / "nowhere") if spec != "torch/mnist" else open_source(
                spec, Path("/dev/null")
            )
        assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(RequestError, match=r"has 2 classes and the network 10 outputs"):
        require_classes(open_source(str(folder)), 10)
    with pytest.raises(RequestError, match="0 test images"):
        open_source(str(folder / "train")).test_images()
