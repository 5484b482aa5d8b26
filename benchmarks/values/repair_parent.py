"""Adapt the published ResNet-20 to CIFAR-10 (JPEG), small set: the parent of the repair's figures.

    python benchmarks/values/repair_parent.py --checkpoint FILE --data DIR/cifar10-small -o parent_resnet20.safetensors

Ten epochs of SGD at 0.01 with cosine decay; five minutes on one core. The last epoch counts.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors.torch import save_file

from knapsack_prune.data import open_source
from knapsack_prune.networks import load_network
from knapsack_prune.settings import ExecutionSettings, TrainingSettings
from knapsack_prune.training.session import Session


def main() -> None:
    """Train, evaluate, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="cifar_resnet20")
    parser.add_argument("--checkpoint", type=Path, required=True, help="the published weights")
    parser.add_argument("--data", type=Path, required=True, help="image folder with train and test")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("-o", "--output", type=Path, required=True, help="the adapted weights")
    options = parser.parse_args()
    network = load_network(options.network, checkpoint=options.checkpoint)
    settings = TrainingSettings(
        epochs=options.epochs,
        held_out=0.0,
        lr=0.01,
        weight_decay=5e-4,
        distill="none",
        logit_weight=0.0,
        channels_last=True,
    )
    session = Session(
        open_source(str(options.data)),
        network.input_shape,
        settings,
        ExecutionSettings(device="cpu", cache="device", progress=False),
    )
    with TemporaryDirectory() as folder:
        trained = session.train(network.model, settings, Path(folder), {"parent": network.name}).network
    before, after = (100 * session.accuracy(model).top1 for model in (network.model, trained))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    save_file(trained.state_dict(), options.output)
    print(f"{network.name}: {before:.2f} % as published, {after:.2f} % adapted")


if __name__ == "__main__":
    main()
