"""Value tables: by sums of scores, by measurement, by reconstruction, by joint Fisher information."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import knapsack_prune as kp
from knapsack_prune.costs.counting import total
from knapsack_prune.errors import RequestError
from knapsack_prune.planning.planner import plan_from_values
from knapsack_prune.planning.preparation import budget_limits
from knapsack_prune.values.cutting import CuttableNetwork, keep_masks
from knapsack_prune.values.energy import energy_values
from knapsack_prune.values.estimate import estimate_values
from knapsack_prune.values.fisher import joined_groups, joint_fisher, strongest
from knapsack_prune.values.losses import divergence
from knapsack_prune.values.measured import measured_values
from knapsack_prune.values.moments import collect_moments
from knapsack_prune.values.reconstruction import reconstruction_values
from knapsack_prune.values.tables import (
    GroupValues,
    PairTable,
    Provenance,
    ValueTables,
    additive_tables,
    value_tables,
)
from tests.values.test_cutting import EXAMPLE, images, slimmed
from tests.zoo import ZOO, Net, conv, enliven

Make = Callable[[kp.ChannelGraph, nn.Module, list[Tensor]], ValueTables]


def measured(graph: kp.ChannelGraph, model: nn.Module, data: list[Tensor]) -> ValueTables:
    return measured_values(graph, model, data, widths=3)


MODELS: dict[str, Make] = {
    "measured": measured,
    "reconstruction": reconstruction_values,
    "variance": lambda graph, model, data: reconstruction_values(graph, model, data, curvature=False),
    "joint Fisher": lambda graph, model, data: joint_fisher(graph, model, data).tables,
}


def straight(graph: kp.ChannelGraph) -> ValueTables:
    """Units in reverse order, no losses predicted: measured ones are then joined by straight lines."""
    groups = [GroupValues(np.arange(g.size)[::-1].copy(), np.zeros(g.size)) for g in graph.groups]
    return value_tables(graph, groups, Provenance("straight", 0, 0))


def residual() -> tuple[kp.ChannelGraph, nn.Module]:
    model = enliven(ZOO["residual"]())
    return kp.trace(model, EXAMPLE), model


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("name", ["residual", "plain", "dense concatenation", "cross attention", "flatten"])
def test_tables_are_complete_monotone_and_repeatable(name: str, make: Make) -> None:
    model = enliven(ZOO[name]())
    graph = kp.trace(model, EXAMPLE)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    data = [images(8), images(8, seed=2)]
    tables = make(graph, model, data)
    for group, values in zip(graph.groups, tables.groups, strict=True):
        assert sorted(values.order) == list(range(group.size))
        assert values.values[-1] == pytest.approx(0, abs=1e-9)
        assert (np.diff(values.values) >= -1e-12).all()
        assert values.values[0] < -1e-6
    again = make(graph, model, data)
    for one, other in zip(tables.groups, again.groups, strict=True):
        np.testing.assert_array_equal(one.order, other.order)
        np.testing.assert_array_equal(one.values, other.values)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not model.training and all(p.requires_grad and p.grad is None for p in model.parameters())


def test_scores_add_up() -> None:
    graph, model = residual()
    scores = kp.score(graph, model, "l1")
    tables = additive_tables(graph, scores)
    best = np.sort(scores.values[1])[::-1]
    np.testing.assert_allclose(tables.groups[1].values[:3], [best[0], best[:2].sum(), best[:3].sum()])
    assert tables.total(graph.sizes) == pytest.approx(sum(v.sum() for v in scores.values))
    assert set(tables.groups[1].kept(3)) == set(np.argsort(-scores.values[1])[:3])
    assert tables.provenance == Provenance("l1", 0, 0, options={"normalize": "none"})


def test_pairs_are_groups_that_a_layer_reads_and_writes() -> None:
    graph, model = residual()
    assert joined_groups(graph) == ((0, 1),)  # the stream, and what lies inside the block
    fisher = joint_fisher(graph, model, [images(16)])
    joint = fisher.with_pairs(graph, fisher.tables)
    (pair,) = joint.pairs
    np.testing.assert_array_equal(pair.values, fisher.pair(0, 1).values)
    assert joint.total((3, 4)) == pytest.approx(fisher.tables.total((3, 4)) + pair.values[2, 3])
    assert joint.total(graph.sizes) == pytest.approx(0)
    # Under tables of another scale, a pair has the same part of what they say.
    doubled = replace(
        fisher.tables, groups=tuple(replace(g, values=2 * g.values) for g in fisher.tables.groups)
    )
    (rescaled,) = fisher.with_pairs(graph, doubled).pairs
    losses = [np.square(d).mean(axis=0) / 2 for d in fisher.derivatives]
    plain = [(g.values == -of) for g, of in zip(fisher.tables.groups, losses, strict=True)]
    same = np.outer(*plain)  # where the tables are not flattened to be monotone
    assert same.any()
    np.testing.assert_allclose(rescaled.values[same], 2 * pair.values[same], atol=1e-12)


def test_a_group_is_in_few_pairs_the_strongest_ones() -> None:
    pairs = [PairTable((0, other), np.full((2, 2), -float(other))) for other in (1, 2, 3)]
    assert [pair.groups for pair in strongest(pairs, [2] * 4)] == [(0, 2), (0, 3)]


@pytest.mark.parametrize("method", ["measured", "joint_fisher"])
def test_a_plan_maximises_own_and_joint_values(method: str) -> None:
    """Against all choices of widths within the budget."""
    graph, model = residual()
    tables = estimate_values(graph, model, method, data=[images(16)], pair_values=True)
    assert tables.pairs and tables.provenance.options["pairs"] == 1
    limits = budget_limits(graph, {"flops": 0.5})
    plan = plan_from_values(graph, tables, limits)
    assert plan.solver.status == "OPTIMAL"
    allowed = [
        counts
        for counts in itertools.product(*(range(1, size + 1) for size in graph.sizes))
        if total(graph.flops, counts) <= limits["flops"]
    ]
    best = max(allowed, key=tables.total)
    assert plan.importance.predicted_loss == pytest.approx(-tables.total(best), rel=1e-6)


def test_a_measured_loss_is_that_of_the_slim_network() -> None:
    graph, model = residual()
    shape = straight(graph)
    known: dict[str, float] = {}
    data = [images(6), images(4, seed=2)]
    tables = measured_values(graph, model, data, shape, refit="none", widths=1, known=known)
    assert known.keys() == {"0:base", "0:0:3", "0:1:4"}  # both batches together; 0.5^1.5 of 8 and of 12
    together = torch.cat(data)
    for index, width in ((0, 3), (1, 4)):
        keep = keep_masks(graph, {index: shape.groups[index].order[:width]})
        small = slimmed(graph, model, keep)
        with torch.no_grad():
            loss = float(divergence(small(together), model(together), together))
        assert known[f"0:{index}:{width}"] == pytest.approx(loss, rel=1e-4)
        size, values = graph.groups[index].size, tables.groups[index].values
        assert values[width - 1] == pytest.approx(-loss, rel=1e-4)
        assert values[size - 2] == pytest.approx(values[width - 1] / (size - width))  # a straight line to 0
        np.testing.assert_array_equal(tables.groups[index].order, shape.groups[index].order)


def test_between_measured_widths_losses_follow_the_shape() -> None:
    graph, model = residual()
    shape = value_tables(
        graph,
        [GroupValues(np.arange(g.size), -np.square(np.arange(g.size)[::-1] / g.size)) for g in graph.groups],
        Provenance("square", 0, 0),
    )
    tables = measured_values(graph, model, [images(16)], shape, widths=1)
    for values, predicted in zip(tables.groups, shape.groups, strict=True):
        ratios = values.values[:-1] / predicted.values[:-1]
        np.testing.assert_allclose(ratios, ratios[0])
        assert ratios[0] > 0


def test_no_cut_is_free() -> None:
    graph, model = residual()
    shape = reconstruction_values(graph, model, [images(16)])
    falling = {"0:base": 1.0, **{f"0:{g}:{n}": 0.5 for g in range(2) for n in range(1, 12)}}  # cuts that help
    tables = measured_values(graph, model, [images(16)], shape, known=falling)
    for values, predicted in zip(tables.groups, shape.groups, strict=True):
        np.testing.assert_allclose(values.values, 0.1 * predicted.values)


def test_groups_are_cut_around_a_thinner_network() -> None:
    graph, model = residual()
    known: dict[str, float] = {}
    around = [4, 6]
    measured_values(
        graph, model, [images(6)], straight(graph), refit="none", widths=1, around=around, known=known
    )
    keep = keep_masks(graph, {0: np.arange(8)[::-1][:4], 1: np.arange(12)[::-1][:4]})
    small = slimmed(graph, model, keep)
    with torch.no_grad():
        assert known["0:1:4"] == pytest.approx(
            float(divergence(small(images(6)), model(images(6)), None)), rel=1e-4
        )
    assert known.keys() == {"0:0:3", "0:0:8", "0:1:4", "0:1:12"}


def test_a_refit_costs_less_than_none() -> None:
    graph, model = residual()
    shape = straight(graph)
    none = measured_values(graph, model, [images(64)], shape, refit="none")
    half = [group.size // 2 for group in graph.groups]
    for refit in ("readers", "all"):
        refitted = measured_values(graph, model, [images(64)], shape, refit=refit)
        assert refitted.total(half) > 0.8 * none.total(half)  # losses are negative: under 0.8 of them


def test_a_stopped_measurement_continues() -> None:
    graph, model = residual()
    known: dict[str, float] = {}
    calls: list[tuple[int, int | None]] = []
    whole = measured_values(
        graph, model, [images(8)], known=known, progress=lambda done, total: calls.append((done, total))
    )
    assert calls == [(done, 9) for done in range(1, 10)]  # the base and 4 widths of 2 groups
    del known["0:1:6"]
    again = measured_values(
        graph, model, [images(8)], known=known, progress=lambda done, total: calls.append((done, total))
    )
    assert calls[9:] == [(9, 9)]
    for one, other in zip(whole.groups, again.groups, strict=True):
        np.testing.assert_array_equal(one.values, other.values)


def test_reconstruction_finds_the_unit_that_others_replace() -> None:
    # Units 2 and 5 of the inner layer compute the same: one of them is the first to go, at no cost.
    graph, model = residual()
    with torch.no_grad():
        model.a.weight[5], model.a.bias[5] = model.a.weight[2], model.a.bias[2]
    for curvature in (True, False):
        tables = reconstruction_values(graph, model, [images(32)], curvature=curvature)
        inner = tables.groups[1]
        assert inner.order[-1] in (2, 5)
        assert -inner.values[-2] < 0.05 * -inner.values[-3]  # not 0: the ridge


def test_reconstruction_is_the_error_of_least_squares() -> None:
    # One linear reader, no curvature: the loss of a width is the residual variance over the output's variance.
    model = enliven(ZOO["flatten"]())
    graph = kp.trace(model, EXAMPLE, keep=["stem"])
    (group,) = graph.groups
    data = [images(256)]
    (values,) = reconstruction_values(graph, model, data, curvature=False).groups
    with torch.no_grad():
        pooled = nn.functional.adaptive_avg_pool2d(model.stem(data[0]).relu(), 2).flatten(1)
        rows = model.a(pooled).double()
        rows = rows - rows.mean(0)
        wanted = rows @ model.head.weight.double().T
        seen = rows[:, values.kept(5)]
        rest = wanted - seen @ torch.linalg.lstsq(seen, wanted).solution
    assert group.size == 8
    assert -values.values[4] == pytest.approx(float(rest.square().sum() / wanted.square().sum()), rel=0.02)


def test_joint_fisher_by_its_formula() -> None:
    # A mask on unit u of the inner layer multiplies b's input: its derivative is taken by autograd, image by image.
    graph, model = residual()
    x = images(6)
    found = collect_moments(
        CuttableNetwork(graph, model), [x], derivatives=True, loss=lambda output, parent, batch: output.mean()
    )
    for index in range(len(x)):
        mask = torch.ones(12, requires_grad=True)
        stem = model.stem(x[index : index + 1]).relu()
        inner = model.a(stem).relu() * mask[:, None, None]
        output = model.head((stem + model.b(inner)).mean((2, 3)))
        (gradient,) = torch.autograd.grad(output.mean(), mask)
        torch.testing.assert_close(found.derivatives[1][index].float(), gradient, rtol=1e-3, atol=1e-6)
    fisher = joint_fisher(graph, model, [x], loss=lambda output, parent, batch: output.mean())
    derivatives = found.derivatives[1].numpy()
    gone = fisher.tables.groups[1].order[4:]
    assert -fisher.tables.groups[1].values[3] >= np.square(derivatives[:, gone].sum(1)).mean() / 2 - 1e-12
    stream = fisher.tables.groups[0].order[7:]
    both = (derivatives[:, gone].sum(1) * found.derivatives[0].numpy()[:, stream].sum(1)).mean()
    assert fisher.pair(1, 0).values[3, 6] == pytest.approx(-both)


def test_examples_are_told_apart_where_layers_read_tokens() -> None:
    model = enliven(ZOO["cross attention"]())
    graph = kp.trace(model, EXAMPLE)
    x = images(4)
    network = CuttableNetwork(graph, model)
    loss = lambda output, parent, batch: output.square().mean()  # noqa: E731
    together = collect_moments(network, [x], derivatives=True, loss=loss).derivatives
    apart = [
        collect_moments(network, [x[i : i + 1]], derivatives=True, loss=loss).derivatives for i in range(4)
    ]
    for group in range(len(graph.groups)):
        torch.testing.assert_close(together[group], torch.cat([found[group] for found in apart]))


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_wrong_data_is_refused(make: Make) -> None:
    graph, model = residual()
    with pytest.raises(RequestError, match="0 examples; give at least one batch with `data`"):
        make(graph, model, [])
    broken = images(4)
    broken[0, 0, 0, 0] = torch.nan
    with pytest.raises(RequestError, match="NaN"):
        make(graph, model, [broken])
    with torch.no_grad():
        model.a.weight[0] = torch.inf
    with pytest.raises(RequestError, match="NaN"):
        make(graph, model, [images(4)])


@pytest.mark.parametrize("method", [measured_values, reconstruction_values, joint_fisher])
def test_losses_must_be_finite_scalars(method: Callable[..., object]) -> None:
    graph, model = residual()
    more = {"shape": straight(graph)} if method is measured_values else {}
    for loss, message in (
        (
            lambda output, parent, batch: output,
            r"the loss is of shape \(\d, 5\); it must be a tensor of one number",
        ),
        (lambda output, parent, batch: 1.0, "the loss is a float"),
        (lambda output, parent, batch: output.mean() * torch.inf, "must be finite"),
    ):
        with pytest.raises(RequestError, match=message):
            method(graph, model, [images(4)], loss=loss, **more)


def test_measured_values_refuse_what_they_cannot_judge() -> None:
    graph, model = residual()
    with pytest.raises(RequestError, match="`widths` is 0"):
        measured_values(graph, model, [images(4)], widths=0)
    with pytest.raises(RequestError, match="the data holds 1 example"):
        measured_values(graph, model, [images(1)])
    apart = [{"x": images(4), "mask": torch.zeros(1, 3)}, {"x": images(4), "mask": torch.zeros(1, 5)}]
    known: dict[str, float] = {}
    measured_values(graph, model, apart, known=known)
    assert {key.partition(":")[0] for key in known} == {"0", "1"}  # what does not fit together is read apart
    with pytest.raises(RequestError, match="needs one tensor of class scores: give a function with `loss`"):
        divergence({"out": torch.zeros(1)}, None, None)


def test_tables_are_checked() -> None:
    graph, _ = residual()
    good = [GroupValues(np.arange(g.size), np.zeros(g.size)) for g in graph.groups]
    source = Provenance("own", 0, 0)
    assert value_tables(graph, good, source).total([1, 1]) == 0
    with pytest.raises(RequestError, match="values for 1 groups, the network has 2"):
        value_tables(graph, good[:1], source)
    with pytest.raises(RequestError, match="every unit at most once in the order"):
        value_tables(graph, [good[0], GroupValues(np.zeros(12, dtype=np.int64), np.zeros(12))], source)
    with pytest.raises(RequestError, match="keeping 1 of 12 units is worth nan"):
        value_tables(graph, [good[0], GroupValues(np.arange(12), np.full(12, np.nan))], source)


def test_energy_is_lost_over_kept() -> None:
    # The inner layer of the residual network is read by b alone and has no norm; the stream by a and the head.
    graph, model = residual()
    stream, inner = energy_values(graph, model).groups
    energy = model.b.weight.detach().square().sum((0, 2, 3)).double().numpy()
    order = np.argsort(-energy)
    np.testing.assert_array_equal(inner.order, order)
    kept = energy[order[:5]].sum()
    assert -inner.values[4] == pytest.approx((energy.sum() - kept) / kept)
    readers = [model.a.weight.detach().square().sum((0, 2, 3)), model.head.weight.detach().square().sum(0)]
    ratios = [float(e.sum() / e[torch.from_numpy(stream.order[:3].copy())].sum()) - 1 for e in readers]
    assert -stream.values[2] == pytest.approx(sum(ratios), rel=1e-5)
    assert stream.values[-1] == inner.values[-1] == 0


def test_energy_counts_the_scales_of_norms() -> None:
    model = enliven(ZOO["plain"]())
    graph = kp.trace(model, EXAMPLE)
    with torch.no_grad():
        model.norm.weight[3] = 100.0
    index = [i for i, g in enumerate(graph.groups) if any(p.parameter == "norm.weight" for p in g.slices)]
    assert energy_values(graph, model).groups[index[0]].order[0] == 3
    with torch.no_grad():
        model.norm.weight[3] = torch.nan
    with pytest.raises(RequestError, match="hold NaN or infinity"):
        energy_values(graph, model)


def test_values_by_name() -> None:
    graph, model = residual()
    labelled = [(images(8), torch.arange(8) % 5)]
    for method in ("measured", "reconstruction", "joint_fisher", "energy", "l1", "taylor"):
        tables = estimate_values(graph, model, method, data=labelled)
        assert tables.provenance.method == method
    seen: list[int] = []
    estimate_values(
        graph, model, "joint_fisher", data=labelled, progress=lambda done, total: seen.append(done)
    )
    assert seen == [8]
    for options, message in (
        (
            {"method": "magic"},
            "unknown importance 'magic'; choose one of measured, reconstruction, joint_fisher, energy, l1",
        ),
        ({"method": "measured"}, "importance 'measured' needs images: give `data`, or choose `energy`"),
        ({"method": "measured", "data": labelled, "normalize": "layer"}, "losses are compared as they are"),
        (
            {"method": "l1", "loss": divergence},
            "only measured, reconstruction, joint_fisher, taylor",
        ),
    ):
        with pytest.raises(RequestError, match=message):
            estimate_values(graph, model, **options)  # type: ignore[arg-type]


def test_matrices_that_do_not_fit_are_folded_by_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    # A flattened 2x2 image of 8 channels: 32 columns, of which 8 are held; outputs keep their diagonal alone.
    model = enliven(ZOO["flatten"]())
    graph = kp.trace(model, EXAMPLE)
    whole = reconstruction_values(graph, model, [images(32)])
    monkeypatch.setattr("knapsack_prune.values.moments.MAX_MATRIX", 8)
    moments = collect_moments(CuttableNetwork(graph, model), [images(32)], gradients=True)
    assert moments.consumers["a.weight"].gram.shape == (8, 8)
    assert moments.consumers["a.weight"].rows == 32 * 4
    folded = reconstruction_values(graph, model, [images(32)])
    for one, other in zip(whole.groups, folded.groups, strict=True):
        assert 0.2 < other.values[3] / one.values[3] < 5
    monkeypatch.setattr("knapsack_prune.values.moments.MAX_MATRIX", 7)
    with pytest.raises(RequestError, match="group stem: no convolution or linear layer reads it"):
        reconstruction_values(graph, model, [images(32)])


def test_groups_that_grouped_convolutions_alone_read_are_valued_by_energy() -> None:
    model = enliven(
        Net(
            lambda n, x: n.b(n.shuffle(n.a(x))),
            a=conv(8, 16, groups=2),
            shuffle=torch.nn.ChannelShuffle(2),
            b=conv(16, 8, groups=2),
        )
    )
    graph = kp.trace(model, EXAMPLE)
    tables = reconstruction_values(graph, model, [images(16)])
    assert [len(table.values) for table in tables.groups] == [4, 4, 4]
    assert all(table.values[0] < 0 and table.values[-1] == 0 for table in tables.groups)
