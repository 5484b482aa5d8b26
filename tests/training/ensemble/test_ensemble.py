"""Ensembles: who may be in one, and what it answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import knapsack_prune as kp
from knapsack_prune.errors import RequestError
from knapsack_prune.planning.planner import plan_from_values
from knapsack_prune.planning.preparation import budget_limits
from knapsack_prune.training.ensemble import open_ensemble
from knapsack_prune.training.ensemble.manifest import Manifest, MemberEntry
from knapsack_prune.training.evaluation import evaluate

CPU = torch.device("cpu")
CLASSES = tuple(str(digit) for digit in range(10))


def saved(parent: kp.Network, folder: Path, *budgets: float) -> list[kp.Plan]:
    """Slim networks in `folder/0`, `folder/1`, …, one per budget."""
    graph = kp.trace(parent.model, torch.zeros(1, *parent.input_shape))
    scores = kp.score(graph, parent.model)
    plans = []
    for number, budget in enumerate(budgets):
        limits = budget_limits(graph, {"flops": budget})
        plan = plan_from_values(graph, scores, limits, solver="greedy", name=parent.name)
        kp.save_slim(kp.slim(parent.model, plan, check=False), plan, folder / str(number))
        plans.append(plan)
    return plans


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three members of the embedded default, of different widths; to be read only."""
    folder = tmp_path_factory.mktemp("ensemble")
    parent = kp.load_network()
    saved(parent, folder, 1.0, 0.5, 0.3)
    entries = [
        MemberEntry(name=name, directory=str(number), num_classes=10, classes=CLASSES)
        for number, name in enumerate(("whole", "half", "third"))
    ]
    Manifest(members=tuple(entries)).save(folder)
    return folder


def with_entry(source: Path, folder: Path, **changes: object) -> Path:
    """The same ensemble with its last entry changed."""
    for member in source.iterdir():
        (folder / member.name).symlink_to(member)
    (folder / "ensemble.json").unlink()
    content = json.loads((source / "ensemble.json").read_text())
    content["members"][-1].update(changes)
    (folder / "ensemble.json").write_text(json.dumps(content))
    return folder


class Fixed(nn.Module):
    """Answers with given logits."""

    def __init__(self, logits: list[list[float]]) -> None:
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, images: Tensor) -> Tensor:
        return self.logits


def test_summed_softmax_and_disagreement_by_hand() -> None:
    # Two members, two classes, three images of classes 0, 0, 1 and one that could not be read.
    # Member a is sure of 0, undecided towards 1, sure of 1; member b a little for 1, a lot for 0, a little for 0.
    # Sums: 0 wins, 0 wins, 1 wins: all right, though a errs on the second and b on the first and third.
    a = Fixed([[4.0, 0], [0, 0.5], [0, 4], [0, 0]])
    b = Fixed([[0.0, 1], [3, 0], [1, 0], [0, 0]])
    labels = torch.tensor([0, 0, 1, -1])
    together = evaluate([a, b], [(torch.zeros(4, 1, 1, 1), labels)], CPU)
    assert together.images == 3
    assert together.top1 == 1.0
    assert together.members == pytest.approx((2 / 3, 1 / 3))
    assert together.disagreement == ((0.0, 1.0), (1.0, 0.0))
    probabilities = (a.logits.softmax(-1) + b.logits.softmax(-1)) / 2
    expected = -probabilities[:3].log()[torch.arange(3), labels[:3]].mean()
    assert together.loss == pytest.approx(float(expected))
    assert together.record("ab")["disagreement"]["a"] == {"a": 0.0, "b": 1.0}


def test_the_parent_is_not_asked_twice(directory: Path) -> None:
    ensemble = open_ensemble(directory)
    sizes = [sum(p.numel() for p in network.parameters()) for network in ensemble.networks]
    assert sizes[0] > sizes[1] > sizes[2]
    others = ensemble.extra_teachers(ensemble.members[0].digest)
    assert [one.identity() for one in others] == [member.digest for member in ensemble.members[1:]]
    images = torch.rand(3, 1, 8, 8)
    torch.testing.assert_close(others[0](images).logits[0], ensemble.members[1].network(images))
    assert open_ensemble(directory, exclude=["half"]).names == ("whole", "third")


def test_members_that_disagree_are_refused_by_name(directory: Path, tmp_path: Path) -> None:
    swapped = ["1", "0", *CLASSES[2:]]
    with pytest.raises(RequestError, match="output 0 of member third is class '1', of member whole '0'"):
        open_ensemble(with_entry(directory, tmp_path, classes=swapped))
    other = kp.load_network("cifar_resnet20")
    saved(other, tmp_path / "colour", 0.9)
    entry = {"directory": "colour/0", "classes": None}
    (tmp_path / "b").mkdir()
    folder = with_entry(directory, tmp_path / "b", **entry)
    (folder / "colour").symlink_to(tmp_path / "colour")
    with pytest.raises(RequestError, match=r"member third has input of shape \(3, 32, 32\), member whole"):
        open_ensemble(folder)
    more = kp.load_network("digits_resnet14", num_classes=7)
    saved(more, tmp_path / "seven", 0.9)
    (tmp_path / "c").mkdir()
    folder = with_entry(directory, tmp_path / "c", directory="seven/0", num_classes=7, classes=None)
    (folder / "seven").symlink_to(tmp_path / "seven")
    with pytest.raises(RequestError, match="member third has outputs: 7, member whole 10"):
        open_ensemble(folder)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ('{"members": []}', "members"),
        ('{"version": 2, "members": [{"name": "a", "directory": "a"}]}', "version"),
        ('{"members": [{"name": "a", "directory": "../a"}]}', "must lie inside"),
        (
            '{"members": [{"name": "a", "directory": "a"}, {"name": "a", "directory": "b"}]}',
            "2 members are called a",
        ),
        ('{"members": [{"name": "a", "directory": "absent"}]}', "cannot read"),
    ],
)
def test_wrong_manifests(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "ensemble.json").write_text(text)
    with pytest.raises(RequestError, match=words):
        open_ensemble(tmp_path)


def test_wrong_requests(directory: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"no ensemble\.json"):
        open_ensemble(tmp_path)
    with pytest.raises(RequestError, match="no member 'quarter' to exclude: it has whole, half, third"):
        open_ensemble(directory, exclude=["quarter"])
    with pytest.raises(RequestError, match="0 members are left"):
        open_ensemble(directory, exclude=["whole", "half", "third"])
