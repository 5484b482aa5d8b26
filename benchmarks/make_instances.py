"""Make the frozen instance library: real networks traced by this project, variants with tables, generated
ones.

    python benchmarks/make_instances.py -o benchmarks/instances [--checkpoint cifar_resnet20=FILE ...] [--only
    GLOB]

Every instance is one `.json.xz`; `provenance.json` says for each what it was made from. Networks without a
checkpoint carry the l1 norms of their seeded initial weights, each multiplied by a seeded log-normal factor:
initial filters are nearly alike, those of trained networks are heavy-tailed. `best_known.json` is written by
`solver_arena.py`.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from solvers import Instance, Resource, Table
from solvers.arena import pisinger, shapes

BUDGETS = (0.2, 0.35, 0.5, 0.7)
ROUNDINGS = (1, 8, 32)
TAIL = 0.6  # standard deviation of the logarithm of the factors
NETWORKS = (
    "digits_resnet14",
    "cifar_resnet20",
    "cifar_resnet56",
    "cifar_vgg16_bn",
    "cifar_wrn16_8",
    "cifar_preresnet164",
    "alexnet",
    "vgg16_bn",
    "resnet18",
    "resnet50",
    "resnet101",
    "resnext50_32x4d",
    "wide_resnet50_2",
    "densenet121",
    "densenet201",
    "googlenet",
    "inception_v3",
    "squeezenet1_1",
    "shufflenet_v2_x1_0",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "mnasnet1_0",
    "efficientnet_b0",
    "efficientnet_v2_s",
    "regnet_y_800mf",
    "regnet_x_3_2gf",
    "convnext_tiny",
    "vit_b_16",
    "swin_t",
    "timm:hrnet_w18",
    "timm:res2net50_26w_4s",
)
TWO_BUDGETS = (
    "cifar_resnet56",
    "resnet18",
    "resnet50",
    "mobilenet_v2",
    "densenet121",
    "efficientnet_b0",
    "vgg16_bn",
)
SEVERAL_BUDGETS = (
    "resnet50",
    "mobilenet_v2",
    "densenet121",
    "efficientnet_b0",
    "convnext_tiny",
    "vit_b_16",
)
STAIRCASES = ("cifar_resnet20", "cifar_resnet56", "resnet18", "resnet50", "mobilenet_v2", "vgg16_bn")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/instances"))
    parser.add_argument("--checkpoint", action="append", default=[], metavar="NETWORK=FILE")
    parser.add_argument("--only", default="*", help="networks to make, as a glob; also generated, pisinger")
    parser.add_argument(
        "--several-only", action="store_true", help="only instances of three and four budgets"
    )
    arguments = parser.parse_args()
    checkpoints = {k: Path(v) for k, v in (item.split("=", 1) for item in arguments.checkpoint)}
    arguments.output.mkdir(parents=True, exist_ok=True)
    listed = arguments.output / "provenance.json"
    provenance: dict[str, Any] = json.loads(listed.read_text()) if listed.exists() else {}
    for network in [n for n in NETWORKS if fnmatch.fnmatch(n, arguments.only)]:
        try:
            made = list(real(network, checkpoints.get(network), arguments.several_only))
        except Exception as error:  # one network that cannot be traced must not lose the others
            print(f"{network}: {type(error).__name__}: {error}", file=sys.stderr)
            continue
        _write(arguments.output, made, provenance, listed)
    for kind, maker in (("generated", generated), ("pisinger", classical)):
        if fnmatch.fnmatch(kind, arguments.only):
            _write(arguments.output, list(maker()), provenance, listed)


def _write(
    output: Path, made: list[tuple[Instance, dict[str, Any]]], provenance: dict[str, Any], listed: Path
) -> None:
    for instance, origin in made:
        instance.save(output / f"{instance.name}.json.xz")
        provenance[instance.name] = origin
        print(instance.name, len(instance.groups), sum(g.levels.size for g in instance.groups), flush=True)
    listed.write_text(json.dumps(dict(sorted(provenance.items())), indent=1) + "\n")


def real(
    name: str, checkpoint: Path | None, several_only: bool = False
) -> Iterator[tuple[Instance, dict[str, Any]]]:
    """All instances of one network."""
    import torch

    import knapsack_prune as kp
    from knapsack_prune.costs.counting import total
    from knapsack_prune.planning.constraints import allowed_levels
    from knapsack_prune.planning.problem import build_instance
    from knapsack_prune.settings import WidthConstraints
    from knapsack_prune.values.criteria import Scores, score
    from knapsack_prune.values.tables import additive_tables

    loaded = kp.load_network(None if name == "digits_resnet14" else name, checkpoint=checkpoint, seed=0)
    graph = kp.trace(loaded.model, torch.zeros(1, *loaded.input_shape))
    scores = score(graph, loaded.model, "l1")
    trained = loaded.weights is not None
    if not trained:
        random = np.random.default_rng(0)
        values = tuple(v * random.lognormal(-(TAIL**2) / 2, TAIL, v.size) for v in scores.values)
        scores = Scores("l1 x log-normal", 0, 0, values)
    tables = additive_tables(graph, scores)
    whole = {
        "flops": total(graph.flops, graph.sizes),
        "params": total(graph.params, graph.sizes),
        "activations": total(graph.activations, graph.sizes),
    }
    short = name.removeprefix("timm:")
    origin = {
        "network": name,
        "criterion": scores.criterion if not trained else "l1",
        "weights": loaded.note if trained else f"seeded initialisation, factors of sigma {TAIL}, seed 0",
        "versions": {p: version(p) for p in ("torch", "torchvision", "timm")},
    }
    if name in SEVERAL_BUDGETS:
        levels = allowed_levels(WidthConstraints(round_to=8))
        instance = build_instance(graph, tables, whole, levels=levels, name=short)
        for several, fractions in several_budgets(instance, whole):
            yield several, {**origin, "kind": "several budgets", "budgets": fractions, "round_to": 8}
    for rounding in () if several_only else ROUNDINGS:
        for budget in BUDGETS:
            limits = {"flops": int(budget * whole["flops"])}
            label = f"{short}-f{round(100 * budget)}-r{rounding}"
            levels = allowed_levels(WidthConstraints(round_to=rounding))
            instance = build_instance(graph, tables, limits, levels=levels, name=label)
            yield instance, {**origin, "kind": "real", "budgets": {"flops": budget}, "round_to": rounding}
            if name in STAIRCASES and rounding == 32 and budget in (0.35, 0.5):
                table = staircase(instance, f"{short}-stairs-f{round(100 * budget)}-r{rounding}")
                yield (
                    table,
                    {**origin, "kind": "staircase", "budgets": {"flops": budget}, "round_to": rounding},
                )
            if name in TWO_BUDGETS and budget in (0.35, 0.5):
                both = limits | {"params": int((budget + 0.05) * whole["params"])}
                label = f"{short}-f{round(100 * budget)}-p{round(100 * budget + 5)}-r{rounding}"
                instance = build_instance(graph, tables, both, levels=levels, name=label)
                fractions = {"flops": budget, "params": round(budget + 0.05, 2)}
                yield instance, {**origin, "kind": "two budgets", "budgets": fractions, "round_to": rounding}


def several_budgets(
    instance: Instance, resources: dict[str, int]
) -> Iterator[tuple[Instance, dict[str, float]]]:
    """Three and four budgets together: FLOPs, parameters, a staircase in place of latency, and activations.

    Args:
        instance: all of `resources` with their whole cost as budget.
        resources: what the parent costs of each.
    """
    shares = {"flops": 0.5, "params": 0.5, "latency": 0.55, "activations": 0.65}
    by_name = {resource.name: resource for resource in instance.resources}
    flops = Instance(instance.name, instance.groups, [by_name["flops"]], instance.value_scale)
    by_name["latency"] = same_tiles(staircase(flops, instance.name).resources[0])
    top = [group.levels.size - 1 for group in instance.groups]
    for count in (3, 4):
        chosen = dict(list(shares.items())[:count])
        limited = []
        for name, share in chosen.items():
            part = by_name[name]
            whole = resources.get(name) or Instance("whole", instance.groups, [part]).costs(top)[0]
            limited.append(Resource(name, int(share * whole), part.terms, part.tables, part.constant))
        label = f"{instance.name}-b{count}-r8"
        yield Instance(label, instance.groups, limited, instance.value_scale), chosen


def same_tiles(resource: Resource, rows: int = 4, columns: int = 2) -> Resource:
    """One noise per tile of so many levels of eight channels: the same stairs in a smaller file."""
    tables = []
    for table in resource.tables:
        steps = [
            np.arange(size) // step * step
            for size, step in zip(table.costs.shape, (rows, columns), strict=True)
        ]
        tables.append(Table(table.groups, table.costs[np.ix_(*steps)]))
    return Resource(resource.name, resource.budget, resource.terms, tables, resource.constant)


def staircase(instance: Instance, name: str, seed: int = 0) -> Instance:
    """The same network with products of two groups as tables: a device that works in tiles of 32 x 16, with
    noise.

    Entries are not monotone: a width just over a tile may cost more than the next one, as latencies measured
    do. The budget keeps its place between the least and the most that can be spent.
    """
    random = np.random.default_rng(seed)
    (resource,) = instance.resources
    terms, tables = [], []
    for term in resource.terms:
        groups = [f.groups for f in term.factors]
        if len(groups) != 2 or any(len(g) != 1 for g in groups) or groups[0] == groups[1]:
            terms.append(term)
            continue
        sides = []
        for factor, tile in zip(term.factors, (32, 16), strict=True):
            width = factor.constant + factor.weights[0] * instance.groups[factor.groups[0]].levels
            sides.append(-(-width // tile) * tile)
        exact = term.coefficient * np.multiply.outer(*sides)
        tables.append(
            Table(
                [g[0] for g in groups],
                np.rint(exact * random.uniform(0.93, 1.07, exact.shape)).astype(np.int64),
            )
        )
    top = [g.levels.size - 1 for g in instance.groups]
    changed = Resource("latency", 0, terms, tables, resource.constant)
    low, high = (Instance(name, instance.groups, [changed]).costs(c)[0] for c in ([0] * len(top), top))
    before_low, before_high = (instance.costs(c)[0] for c in ([0] * len(top), top))
    share = (resource.budget - before_low) / max(1, before_high - before_low)
    changed = Resource("latency", max(0, int(low + share * (high - low))), terms, tables, resource.constant)
    return Instance(name, instance.groups, [changed], instance.value_scale)


def generated() -> Iterator[tuple[Instance, dict[str, Any]]]:
    """Instances that scale: residual stars, chains, dense concatenation; 10 to 2,000 groups, to 4,096
    levels.
    """
    origin = {
        "network": "generated",
        "criterion": "log-normal",
        "kind": "generated",
        "by": "solvers.arena.shapes",
    }
    star, dense = shapes.wide_star, shapes.dense_concatenation
    listed = [
        ("star-10x64", star(2, 2, 64), 0.5, 1),
        ("star-100x64", star(4, 12, 64), 0.5, 1),
        ("star-400x128", star(4, 50, 128), 0.35, 4),
        ("star-1000x1024", star(4, 125, 1024), 0.5, 32),
        ("star-2000x256", star(8, 125, 256), 0.5, 16),
        ("chain-10x4096", shapes.chain(10, 4096), 0.5, 32),
        ("chain-100x256", shapes.chain(100, 256), 0.35, 4),
        ("chain-1000x64", shapes.chain(1000, 64), 0.5, 4),
        ("dense-50x16", dense((12, 12), 16), 0.5, 1),
        ("dense-200x32", dense((24, 36, 40), 32), 0.35, 2),
        ("resnet152-like", shapes.bottleneck_star((3, 8, 36, 3)), 0.5, 1),
        ("chain-4x4096-fine", shapes.chain(4, 4096), 0.5, 1),
    ]
    for name, shape, budget, rounding in listed:
        instance = shape.instance(f"gen-{name}", budget, rounding, seed=1)
        yield instance, {**origin, "budgets": {"flops": budget}, "round_to": rounding}


def classical() -> Iterator[tuple[Instance, dict[str, Any]]]:
    """Pisinger's 0/1 and multiple-choice classes."""
    for kind in pisinger.CLASSES:
        for items in (100, 1000):
            name = f"pisinger-01-{kind}-{items}"
            yield pisinger.zero_one(kind, items, seed=1, name=name), _classical(kind)
        name = f"pisinger-mc-{kind}-100x10"
        yield pisinger.multiple_choice(kind, 100, 10, seed=1, name=name), _classical(kind)


def _classical(kind: str) -> dict[str, Any]:
    return {"network": "none", "kind": "pisinger", "class": kind, "by": "solvers.arena.pisinger"}


if __name__ == "__main__":
    main()
