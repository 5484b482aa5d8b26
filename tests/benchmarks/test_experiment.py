"""What experiments rely on: rows claimed once, widths that fit, intervals, and shortcuts that others can cut."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau

from benchmarks.accuracy.channel_map import ChannelMap, network_of, with_channel_maps
from benchmarks.accuracy.plots import draw_figure
from benchmarks.experiment.config import Config, Figure, read_config
from benchmarks.experiment.plan_set import _concave_margins, scaled_widths, threshold_widths
from benchmarks.experiment.statistics import kendall, mean_difference
from benchmarks.experiment.store import Store
from knapsack_prune.costs.counting import total
from knapsack_prune.networks import load_network
from knapsack_prune.settings import IterateSettings, TrainingSettings
from knapsack_prune.tracing.trial import trace
from knapsack_prune.values.energy import energy_values

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_a_row_is_claimed_once(tmp_path):
    store = Store(tmp_path)
    with store.claim("0.3/a/repaired-none-0") as first, store.claim("0.3/a/repaired-none-0") as second:
        assert (first, second) == (True, False)
        store.write("0.3/a/repaired-none-0", {"top1": 1.0})
    with store.claim("0.3/a/repaired-none-0") as again:
        assert not again  # it is made
    assert store.rows() == [{"top1": 1.0}]


def test_what_a_dead_process_claimed_is_free(tmp_path):
    store = Store(tmp_path)
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    (tmp_path / "row.claim").write_text(str(child))
    with store.claim("row") as mine:
        assert mine


def test_tau_and_its_interval():
    # 1 2 3 4 against 1 2 4 3: one of six pairs is the other way round, (5 - 1) / 6.
    tau, low, high = kendall([1, 2, 3, 4], [1, 2, 4, 3])
    assert tau == pytest.approx(4 / 6)
    assert low <= tau <= high == 1.0
    assert kendall([1, 1, 2, 3], [1, 2, 2, 3])[0] == pytest.approx(
        kendalltau([1, 1, 2, 3], [1, 2, 2, 3]).statistic
    )
    assert kendall(range(30), range(30)) == pytest.approx((1.0, 1.0, 1.0))


def test_paired_differences_do_not_see_what_both_share():
    shared = np.random.default_rng(0).normal(0, 10, 20)
    mean, low, high = mean_difference(shared + 1, shared)
    assert (mean, low, high) == (pytest.approx(1), pytest.approx(1), pytest.approx(1))


@pytest.mark.parametrize("path", sorted(BENCHMARKS.glob("*/*.toml")), ids=lambda path: path.stem)
def test_every_experiment_names_what_is_there(path):
    config = read_config(path)
    for given in config.iterate.values():
        IterateSettings(**{key: value for key, value in given.items() if key != "repair"})
    for given in config.recipes.values():
        TrainingSettings(**config.training, **given)


def test_a_recipe_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="not there: longer"):
        Config(stages=[{"budgets": [0.5], "recipes": ["longer"]}])


def test_a_figure_draws_the_rows_of_its_lines_alone(tmp_path):
    lines = ({"label": "ours", "plan": "measured", "start": "repaired", "recipe": "long", "ours": True},)
    figure = Figure(name="f", title="t", lines=lines)
    row = {"plan": "measured", "start": "repaired", "recipe": "long", "budget": 0.2, "top1": 80.0}
    assert figure.lines[0].holds(row) and not figure.lines[0].holds(row | {"recipe": "none"})
    draw_figure(figure, [row, row | {"plan": "other", "top1": 5.0}], 86.0, tmp_path / "one.svg")
    draw_figure(figure, [row], 86.0, tmp_path / "two.svg")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


def test_scaled_and_threshold_widths_fill_the_budget():
    network = load_network()
    graph = trace(network.model, torch.zeros(1, *network.input_shape))
    terms = graph.flops
    limit = total(terms, graph.sizes) // 3
    widths = scaled_widths(graph, limit, np.ones(len(graph.groups)))
    assert total(terms, widths) <= limit
    shares = [width / size for width, size in zip(widths, graph.sizes, strict=True)]
    assert max(shares) - min(shares) < 0.07
    for g, width in enumerate(widths):  # nothing more fits
        assert total(terms, [*widths[:g], width + 1, *widths[g + 1 :]]) > limit
    assert total(terms, threshold_widths(graph, energy_values(graph, network.model), limit)) <= limit


def test_margins_of_the_least_concave_function_fall():
    # Rises 1, 3, 0, 1: the first two are averaged to 2, 2, the last two to 0.5, 0.5.
    assert _concave_margins(np.array([0.0, 1, 4, 4, 5])).tolist() == [2, 2, 0.5, 0.5]


def test_a_channel_map_is_the_padded_shortcut_and_can_lose_any_channel():
    model = load_network("cifar_resnet20").model
    x = torch.randn(2, 3, 32, 32)
    twin = with_channel_maps(model).eval()
    torch.testing.assert_close(twin(x), model(x))
    # 2 inputs; outputs: none, input 0, input 1, none. Without input 0 and output 3: none, none, input 1.
    shortcut = ChannelMap(torch.tensor([-1, 0, 1, -1]), 2)
    shortcut.keep_inputs(torch.tensor([1]))
    shortcut.keep_outputs(torch.tensor([0, 1, 2]))
    image = torch.ones(1, 1, 2, 2)
    assert shortcut(image).flatten().tolist() == [0, 0, 1]


def test_torch_pruning_meets_the_budget_on_padded_shortcuts():
    methods = pytest.importorskip("benchmarks.accuracy.torch_pruning_methods")
    from knapsack_prune.costs.counting import count_flops
    from knapsack_prune.networks.example import Example

    network = load_network("cifar_resnet20")
    limit = int(0.5 * count_flops(network.model, Example.zeros(network.input_shape)))
    pruned, flops = methods.prune(network.model, network.input_shape, methods.METHODS["tp-l1"], [], limit)
    assert 0.95 * limit < flops <= limit
    x = torch.randn(2, 3, 32, 32)
    again = network_of(network.model, pruned.state_dict())
    torch.testing.assert_close(again(x), pruned.eval()(x))
    assert count_flops(again, Example.zeros(network.input_shape)) == flops
