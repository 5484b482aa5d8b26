"""Train the embedded default network from nothing and write its weights.

    python benchmarks/train_digits_parent.py -o knapsack_prune/assets/digits_resnet14.safetensors

Seeded SGD with a one-cycle learning rate on the shipped digits, shifted by up to one pixel. The epoch with
the lowest validation loss is kept; the test part is evaluated once, at the end. Takes half a minute on two
cores.
"""

from __future__ import annotations

import argparse
from copy import deepcopy
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from knapsack_prune.data.digits import load_digits
from knapsack_prune.networks.digits_resnet import DigitsResNet


def shift(images: Tensor, generator: torch.Generator) -> Tensor:
    """Move every image by -1, 0 or 1 pixels in each direction: (N, 1, 8, 8) -> (N, 1, 8, 8)."""
    padded = F.pad(images, (1, 1, 1, 1))
    rows, columns = torch.randint(0, 3, (2, len(images), 1), generator=generator)
    span = torch.arange(8)
    index = torch.arange(len(images))[:, None, None]
    return padded[index, 0, (rows + span)[:, :, None], (columns + span)[:, None, :]].unsqueeze(1)


@torch.no_grad()
def evaluate(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[float, float]:
    """Accuracy and mean cross-entropy in eval mode."""
    logits = model.eval()(images)
    accuracy = (logits.argmax(1) == labels).float().mean().item()
    return accuracy, F.cross_entropy(logits, labels).item()


def train(seed: int, epochs: int, batch: int) -> DigitsResNet:
    """The network of the epoch with the lowest validation loss."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = DigitsResNet()
    images, labels = load_digits("train")
    validation = load_digits("validation")
    steps = len(images) // batch
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.1, total_steps=epochs * steps, pct_start=0.2
    )
    best_loss, best_state = float("inf"), deepcopy(model.state_dict())
    for epoch in range(epochs):
        model.train()
        order = torch.randperm(len(images), generator=generator)
        for chosen in order[: steps * batch].split(batch):
            logits = model(shift(images[chosen], generator))
            loss = F.cross_entropy(logits, labels[chosen], label_smoothing=0.1)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
        accuracy, validation_loss = evaluate(model, *validation)
        if validation_loss < best_loss:
            best_loss, best_state = validation_loss, deepcopy(model.state_dict())
        if (epoch + 1) % 10 == 0:
            print(f"epoch {epoch + 1}: validation {accuracy:.4f}, loss {validation_loss:.4f}", flush=True)
    model.load_state_dict(best_state)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--batch", type=int, default=64)
    options = parser.parse_args()
    model = train(options.seed, options.epochs, options.batch)
    for part in ("train", "validation", "test"):
        accuracy, loss = evaluate(model, *load_digits(part))
        print(f"{part}: accuracy {accuracy:.4f}, loss {loss:.4f}")
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, options.output, metadata={"network": "digits_resnet14", "seed": str(options.seed)})
    print(f"{options.output}: {options.output.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
