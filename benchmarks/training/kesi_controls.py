"""Equal-epoch controls for KESI: what each of its parts is worth, from one parent to one final budget.

The tables that lie in `benchmarks/results`: the shipped digits (minutes on a CPU), and ResNet-20 on a CPU:

    python benchmarks/training/kesi_controls.py --importance taylor --device cpu --threads 1 \
        --table benchmarks/results/kesi_controls_digits -o DIR
    python benchmarks/training/kesi_controls.py --network cifar_resnet20 --checkpoint FILE --data DIR/cifar10-small \
        --adapt-epochs 10 --importance taylor --epochs 8 --device cpu --precision bf16 --threads 1 --table TABLE -o DIR

The paper's hand-written widths against the knapsack's, at the MACs that the former cost; as above, with:

    --epochs 2 --budget by-hand --methods iterative-cycle ensemble hand-cycle hand-ensemble

ResNet-56 on CIFAR-10 at the paper's point, on a GPU: `gpu_kesi.sh`.

Every method trains for (rounds + 1) * epochs. Those that distil do so in the last `epochs`; those that do not train on
with labels, by their own learning rate. Methods of one seed share the rounds they have in common. Finished runs are
found again in the output directory and an interrupted one continues, so that the same call carries on; the table is
written from the finished runs after each of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from kesi_table import BY_HAND, METHODS, write_tables
from kesi_widths import schedule_of_round
from safetensors.torch import load_file, save_file
from torch import nn

from knapsack_prune.costs.counting import total
from knapsack_prune.data import ImageSource, open_source
from knapsack_prune.files import read_json, write_json
from knapsack_prune.iterate.method import distil
from knapsack_prune.iterate.rounds import RESULTS, Rounds, Snapshot, forget_checkpoints
from knapsack_prune.networks import Network, load_network
from knapsack_prune.networks.fingerprint import weights_digest
from knapsack_prune.planning.constraints import Levels, fixed_levels
from knapsack_prune.planning.plan_file import Plan
from knapsack_prune.settings import ExecutionSettings, IterateSettings, TrainingSettings
from knapsack_prune.settings.iterate import PruningSettings
from knapsack_prune.slimming.slim import slim
from knapsack_prune.tracing.trial import trace
from knapsack_prune.training.ensemble.members import open_ensemble
from knapsack_prune.training.finetune import finetune
from knapsack_prune.training.session import Session


class Laboratory:
    """One parent, one dataset, one budget; a method of a seed is a directory with `result.json`."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.network = load_network(options.network, checkpoint=options.checkpoint)
        self.source: ImageSource = open_source(str(options.data) if options.data else "digits")
        self.common = {
            "batch_size": options.batch_size,
            "precision": options.precision,
            "channels_last": options.device == "cuda",
            "compile": options.compile,
            "held_out": 0.0,  # the last epoch is compared, trained on all images
        }
        execution = ExecutionSettings(device=options.device, cache="device", resume=True, progress=False)
        self.session = Session(self.source, self.network.input_shape, self.restart(1, 0), execution)
        self._adapt()
        self.budget = options.budget if options.budget is not None else self._cost_by_hand()

    def restart(self, epochs: int, seed: int, rate: str = "cycle") -> TrainingSettings:
        """Training on labels alone: the one-cycle of a round, or the small constant rate."""
        settings = IterateSettings(seed=seed, **self.common).retraining(epochs)
        if rate != "small":
            return settings
        small = self.options.small_rate
        return TrainingSettings.of(settings, lr=small, start_lr=0, end_lr=0, schedule="constant", warmup=0)

    def _cost_by_hand(self) -> int:
        """FLOPs of the network that the paper's last widths leave."""
        graph = trace(self.network.model, torch.zeros(1, *self.network.input_shape))
        fixed = schedule_of_round([group.name for group in graph.groups], self.options.rounds)
        return total(graph.flops, [fixed.get(group.name, group.size) for group in graph.groups])

    def _adapt(self) -> None:
        """Fine-tune the parent on the images, once, where asked for."""
        options, path = self.options, self.options.output / "parent.safetensors"
        if options.adapt_epochs and not path.exists():
            settings = TrainingSettings.of(
                self.restart(options.adapt_epochs, 0),
                lr=0.01,
                weight_decay=5e-4,
                schedule="cosine",
                warmup=0.05,
                start_lr=0.0,
                end_lr=0.0,
            )
            trained = self.session.train(
                self.network.model, settings, options.output / "adapt", {"parent": options.network}
            )
            save_file(trained.network.state_dict(), path)
        if path.exists():
            self.network.model.load_state_dict(load_file(path))

    def pruning(self) -> PruningSettings:
        """The same for every seed, so that what varies is training."""
        options = self.options
        return PruningSettings(
            flops_budget=self.budget,
            rounds=options.rounds,
            importance=options.importance,
            normalize=options.normalize,
            samples=1024,
            min_channels=options.min_channels,
        )

    def rounds(self, rate: str, seed: int, folder: Path) -> Rounds:
        """The rounds of a seed at a learning rate, or with the widths by hand."""
        settings = self.restart(self.options.epochs, seed, rate)
        schedule: Callable[[int], Levels] | None = None
        if rate == "hand":
            graph = trace(self.network.model, torch.zeros(1, *self.network.input_shape))
            names = [group.name for group in graph.groups]

            def schedule(number: int) -> Levels:
                return fixed_levels(schedule_of_round(names, number))

        pruning = self.pruning()
        asked = {
            "parent": weights_digest(self.network.model),
            "pruning": pruning.record(),
            "retrain": settings.record(),
            "widths": rate,
        }
        directory = self.session.run_directory(folder, asked, settings, RESULTS)
        given = (self.network, self.source, directory, pruning, settings, self.session)
        return Rounds(*given, schedule=schedule)

    def snapshots(self, rate: str, seed: int) -> tuple[Path, tuple[Snapshot, ...]]:
        """All rounds, finished now if they were not."""
        folder = self.options.output / f"rounds-{rate}-{seed}"
        rounds = self.rounds(rate, seed, folder)
        rounds.directory.claim()
        return folder, rounds.run()

    def train(self, plan: Plan, start: nn.Module, folder: Path, settings: TrainingSettings) -> None:
        """Train, once; where the settings ask for a teacher, it is the parent alone."""
        if not (folder / "result.json").exists():
            finetune(
                self.network.model, plan, self.source, folder, settings, start=start, session=self.session
            )
            forget_checkpoints(folder)

    def scratch(self, seed: int, folder: Path) -> None:
        """New weights at the widths of the iterative plan, for all epochs."""
        _, snapshots = self.snapshots("cycle", seed)
        plan = snapshots[-1].plan
        fresh = fresh_copy(self.network, seed)
        settings = self.restart(self.total, seed)
        self.train(plan, slim(fresh, plan, check=False), folder, settings)

    @property
    def total(self) -> int:
        """Epochs of every method."""
        return int((self.options.rounds + 1) * self.options.epochs)

    def one_shot(self, seed: int, folder: Path) -> None:
        """Pruned at once, then trained for all epochs at the small rate."""
        path = self.options.output / "one-shot.json"
        if not path.exists():
            self.rounds("small", seed, self.options.output / "unused").one_shot().save(path)
        plan = Plan.load(path)
        settings = self.restart(self.total, seed, "small")
        self.train(plan, slim(self.network.model, plan), folder, settings)

    def iterative(self, rate: str) -> Callable[[int, Path], None]:
        """All rounds, and one more phase of the same kind without pruning."""

        def work(seed: int, folder: Path) -> None:
            last = self.snapshots(rate, seed)[1][-1]
            settings = self.restart(self.options.epochs, seed, rate)
            self.train(last.plan, last.network, folder, settings)

        return work

    def distilled(self, kind: str) -> Callable[[int, Path], None]:
        """All rounds with one-cycle restarts, then distillation."""

        def work(seed: int, folder: Path) -> None:
            directory, snapshots = self.snapshots("hand" if kind == "hand-ensemble" else "cycle", seed)
            inner = {"distill": "kept", "gamma": self.options.gamma} if kind == "ensemble-inner" else {}
            asked = IterateSettings(seed=seed, **self.common, **inner)
            settings = asked.distillation(self.options.epochs)
            if kind == "single-teacher":
                self.train(snapshots[-1].plan, snapshots[-1].network, folder, settings)
                return
            distil(self.network, self.source, directory, folder, snapshots[-1], settings, self.session)
            forget_checkpoints(folder)
            path = directory / "ensemble-accuracy.json"
            if not path.exists():
                ensemble = open_ensemble(directory, lambda plan, classes: self.network.model)
                write_json(path, self.session.accuracy(*ensemble.networks).record(ensemble.names))

        return work

    def method(self, name: str) -> Callable[[int, Path], None]:
        """What does a method's work."""
        if name == "scratch":
            return self.scratch
        if name == "one-shot-small":
            return self.one_shot
        if name in ("iterative-small", "iterative-cycle", "hand-cycle"):
            return self.iterative({"hand-cycle": "hand"}.get(name, name.removeprefix("iterative-")))
        return self.distilled(name)


def main() -> None:
    """Run what is missing, then write the table."""
    options = arguments()
    options.output.mkdir(parents=True, exist_ok=True)
    if options.threads:
        torch.set_num_threads(options.threads)
    laboratory = Laboratory(options)
    todo = [(seed, name) for seed in options.seeds for name in options.methods]
    done = 0
    for seed, name in todo:
        folder = options.output / "methods" / f"{name}-{seed}"
        if (folder / "result.json").exists():
            continue
        if options.runs is not None and done == options.runs:
            break
        laboratory.method(name)(seed, folder)
        done += 1
        print(f"seed {seed}, {name}: {read_json(folder / 'result.json')['accuracy']}", flush=True)
        write_tables(options, laboratory.network.name, laboratory.budget, laboratory.total)
    write_tables(options, laboratory.network.name, laboratory.budget, laboratory.total)
    missing = [
        name
        for seed, name in todo
        if not (options.output / "methods" / f"{name}-{seed}" / "result.json").exists()
    ]
    print(f"{len(missing)} of {len(todo)} runs are missing")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", help="by name; the embedded digits network if left out")
    parser.add_argument("--checkpoint", type=Path, help="the parent's weights")
    parser.add_argument("--data", type=Path, help="image folder with train and test; the digits if left out")
    parser.add_argument(
        "--budget",
        type=lambda text: None if text == "by-hand" else float(text),
        default=0.385,
        help="FLOPs kept at most, of the parent's; `by-hand`: what the paper's last widths cost",
    )
    standard = [name for name in METHODS if name not in BY_HAND]
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=standard)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--importance", default="l1")
    parser.add_argument("--normalize", choices=["none", "layer"], default="none")
    parser.add_argument("--min-channels", type=int, default=1)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--adapt-epochs", type=int, default=0, help="fine-tune the parent first")
    parser.add_argument("--epochs", type=int, default=8, help="per round, and of the last phase")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--small-rate", type=float, default=1e-3, help="a last rate of usual training")
    parser.add_argument("--gamma", type=float, default=1.0, help="weight of inner distillation")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves torch's choice")
    parser.add_argument("--runs", type=int, help="at most so many of the missing runs in this call")
    parser.add_argument("--table", type=Path, required=True, help="write TABLE.csv and TABLE.md")
    parser.add_argument("-o", "--output", type=Path, required=True, help="networks and results of every run")
    return parser.parse_args()


def fresh_copy(network: Network, seed: int) -> nn.Module:
    """The parent's architecture with new random weights."""
    return load_network(network.name, input_shape=network.input_shape, seed=seed).model


if __name__ == "__main__":
    main()
