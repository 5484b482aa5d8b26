"""Names to networks: what is built, what is refused, and that nothing else changes."""

from __future__ import annotations

import sys
import urllib.error
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from knapsack_prune.data.digits import load_digits
from knapsack_prune.errors import RequestError
from knapsack_prune.networks import Example, check_example, load_network
from knapsack_prune.networks.cifar_resnet import CifarResNet, PaddedShortcut
from knapsack_prune.networks.collection import COLLECTION


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        # The papers' tables: 0.27, 0.46, 0.66, 0.85, 1.7 (He et al.), 1.7 (PreResNet-164), 11.0 (WRN-16-8);
        # VGG-16-BN by hand: 14.71 in the convolutions, 8.4 K in the norms, 5,130 in the classifier.
        ("cifar_resnet20", 0.27),
        ("cifar_resnet32", 0.46),
        ("cifar_resnet44", 0.66),
        ("cifar_resnet56", 0.85),
        ("cifar_resnet110", 1.73),
        ("cifar_preresnet164", 1.70),
        ("cifar_wrn16_8", 10.96),
        ("cifar_vgg16_bn", 14.72),
        ("digits_resnet14", 0.27),
    ],
)
def test_own_networks_have_the_size_of_the_papers(name: str, millions: float) -> None:
    network = load_network(name, num_classes=10)
    check_example(network.model, Example.zeros(network.input_shape))
    assert sum(p.numel() for p in network.model.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)
    assert "UNTRAINED" in network.note


def test_every_own_network_is_in_the_size_test() -> None:
    assert len(COLLECTION) == 9


def test_padded_shortcut_subsamples_and_pads_with_zeros() -> None:
    x = torch.arange(2 * 16, dtype=torch.float32).reshape(1, 2, 4, 4)
    out = PaddedShortcut(left=1, right=2)(x)
    assert out.shape == (1, 5, 2, 2)
    # Channel 1 of the output is channel 0 of the input at rows 0, 2 and columns 0, 2: 0, 2, 8, 10.
    assert out[0, 1].tolist() == [[0, 2], [8, 10]]
    assert out[0, [0, 3, 4]].abs().max() == 0


def test_cifar_resnet_has_the_names_of_the_public_checkpoints() -> None:
    names = {name for name in CifarResNet(3).state_dict() if not name.endswith("num_batches_tracked")}
    assert len(names) == 97
    assert {
        "conv1.weight",
        "bn1.running_var",
        "layer3.2.bn2.bias",
        "layer2.0.conv1.weight",
        "linear.bias",
    } <= names
    assert not any("shortcut" in name or "downsample" in name for name in names)


def test_embedded_default_is_trained() -> None:
    network = load_network()
    images, labels = load_digits("test")
    with torch.no_grad():
        accuracy = (network.model(images).argmax(1) == labels).float().mean().item()
    assert accuracy >= 0.985
    assert (network.name, network.weights, network.input_shape) == ("digits_resnet14", "embedded", (1, 8, 8))
    assert "embedded default" in network.note


def test_random_initialisation_is_seeded_and_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    one, again, other = (load_network("cifar_resnet20", seed=seed).model for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    weights = [model.get_parameter("conv1.weight") for model in (one, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("googlenet", 224),
        ("inception_v3", 299),
        ("efficientnet_b1", 240),
        ("swin_v2_t", 256),
        ("vit_b_16", 224),
    ],
)
def test_torchvision_networks_take_their_default_input_and_warn_of_nothing(name: str, side: int) -> None:
    network = load_network(name, num_classes=7)
    assert (network.input_shape, network.num_classes) == ((3, side, side), 7)
    assert not any("aux" in part.lower() for part, _ in network.model.named_parameters())


def test_timm_networks_tell_their_input() -> None:
    network = load_network("timm:mobilenetv4_conv_small")
    assert (network.input_shape, network.num_classes) == ((3, 224, 224), 1000)


def test_callable_is_found_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "from torch import nn\ndef build(num_classes=3):\n    return nn.Linear(4, num_classes)\n"
    (tmp_path / "their_network.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    path_before = list(sys.path)
    network = load_network("their_network:build", input_shape=(4,), num_classes=5)
    assert (network.model.out_features, network.weights) == (5, None)
    assert sys.path == path_before
    with pytest.raises(RequestError, match="`input_shape`"):
        load_network("their_network:build")


@pytest.mark.parametrize("form", ["safetensors", "torch", "nested", "wrapped"])
def test_checkpoint_forms_give_the_same_weights(form: str, tmp_path: Path) -> None:
    state = load_network("cifar_resnet20", seed=5).model.state_dict()
    file = tmp_path / "weights.bin"
    match form:
        case "safetensors":
            save_file({k: v for k, v in state.items() if "num_batches" not in k}, file)
        case "torch":
            torch.save(state, file)
        case "nested":
            torch.save({"epoch": 3, "state_dict": state}, file)
        case _:
            torch.save({"model": {f"module.{k}": v for k, v in state.items()}}, file)
    network = load_network("cifar_resnet20", checkpoint=file)
    assert all(torch.equal(v, state[k]) for k, v in network.model.state_dict().items())
    assert network.weights == "checkpoint:weights.bin"


def test_misfit_tells_how_many_tensors_do_not_fit_and_what_to_do(tmp_path: Path) -> None:
    file = tmp_path / "ten.safetensors"
    save_file(load_network("cifar_resnet20").model.state_dict(), file)
    with pytest.raises(RequestError, match=r"0 missing, 0 unexpected, 2 of another shape .*`num_classes`"):
        load_network("cifar_resnet20", num_classes=100, checkpoint=file)
    # ResNet-32 has 12 more convolutions and norms: 12 * (1 + 4) tensors that must be there.
    with pytest.raises(RequestError, match=r"60 missing, 0 unexpected, 0 of another shape .*layer1\.3\."):
        load_network("cifar_resnet32", checkpoint=file)


def test_damaged_and_unsafe_checkpoints_are_refused(tmp_path: Path) -> None:
    whole, cut, text, unsafe = (tmp_path / name for name in ("whole", "cut", "text", "unsafe"))
    save_file(load_network("cifar_resnet20").model.state_dict(), whole)
    cut.write_bytes(whole.read_bytes()[:5000])
    text.write_text("no weights here")
    torch.save(load_network("cifar_resnet20").model, unsafe)
    for file, words in ((cut, "not a whole"), (text, "begins like neither"), (unsafe, "weights only")):
        with pytest.raises(RequestError, match=words):
            load_network("cifar_resnet20", checkpoint=file)
    with pytest.raises(RequestError, match="cannot be read: No such file"):
        load_network("cifar_resnet20", checkpoint=tmp_path / "absent")


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("resent50", {}, "did you mean resnet50"),
        ("cifar_resnet57", {}, "did you mean cifar_resnet56"),
        ("hrnet_w18", {}, "`model` timm:hrnet_w18"),
        ("timm:resnet49", {}, "did you mean timm:resnet"),
        ("resnet50", {"weights": "IMAGENET1K_V9"}, "IMAGENET1K_V1, IMAGENET1K_V2, DEFAULT"),
        ("resnet50", {"weights": "DEFAULT", "num_classes": 10}, "1000 classes"),
        ("resnet50", {"weights": "DEFAULT", "checkpoint": Path("x")}, "give one"),
        ("timm:resnet50", {"weights": "nothing"}, "no weights 'nothing' in timm"),
        ("cifar_resnet20", {"weights": "DEFAULT"}, "no weights of its own"),
        ("cifar_resnet20", {"weights": "checkpoint:a.pt"}, "give it again with `checkpoint`"),
        (None, {"num_classes": 3}, "10 classes"),
        ("no_such_module:build", {}, "no module 'no_such_module'"),
        ("json:loads", {}, "TypeError"),
        ("collections:OrderedDict", {}, "returns an nn.Module"),
    ],
)
def test_wrong_requests_tell_the_remedy(name: str | None, options: dict[str, object], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        load_network(name, **options)  # type: ignore[arg-type]


def test_weights_that_cannot_be_downloaded_are_a_wrong_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    with pytest.raises(RequestError, match=r"no route to host.*`checkpoint`"):
        load_network("resnet18", weights="IMAGENET1K_V1")


def test_input_that_the_network_refuses_is_a_wrong_request() -> None:
    network = load_network("cifar_resnet20")
    network.model.train()
    with pytest.raises(RequestError, match=r"shape 1,32,32.*to have 3 channels"):
        check_example(network.model, Example.zeros((1, 32, 32)))
    assert network.model.training
    assert network.model.get_submodule("layer1.0").training
