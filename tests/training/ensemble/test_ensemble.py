"""Ensembles: who may be in one, what it answers, and outputs that are found again."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import knapsack_prune as kp
from knapsack_prune.errors import RequestError
from knapsack_prune.planning.planner import plan_from_scores
from knapsack_prune.planning.preparation import budget_limits
from knapsack_prune.training.distillation.teacher import EnsembleTeacher, NetworkTeacher
from knapsack_prune.training.ensemble import Ensemble, evaluate_members, open_ensemble
from knapsack_prune.training.ensemble.manifest import Manifest, MemberEntry
from knapsack_prune.training.ensemble.members import Lineup, Member
from knapsack_prune.training.ensemble.outputs import (
    RecallingTeacher,
    RecordedOutputs,
    image_keys,
    record_outputs,
)
from knapsack_prune.training.ensemble.teaching import companions

CPU = torch.device("cpu")
CLASSES = tuple(str(digit) for digit in range(10))


def saved(parent: kp.Network, folder: Path, *budgets: float) -> list[kp.Plan]:
    """Slim networks in `folder/0`, `folder/1`, …, one per budget."""
    graph = kp.trace(parent.model, torch.zeros(1, *parent.input_shape))
    scores = kp.score(graph, parent.model)
    plans = []
    for number, budget in enumerate(budgets):
        limits = budget_limits(graph, {"flops": budget})
        plan = plan_from_scores(graph, scores, limits, solver="greedy", name=parent.name)
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


def test_summed_softmax_and_disagreement_by_hand(directory: Path) -> None:
    # Two members, two classes, three images of classes 0, 0, 1 and one that could not be read.
    # Member a is sure of 0, undecided towards 1, sure of 1; member b a little for 1, a lot for 0, a little for 0.
    # Sums: 0 wins, 0 wins, 1 wins: all right, though a errs on the second and b on the first and third.
    a = torch.tensor([[4.0, 0], [0, 0.5], [0, 4], [0, 0]])
    b = torch.tensor([[0.0, 1], [3, 0], [1, 0], [0, 0]])
    network = kp.load_network()
    plan = kp.Plan.load(directory / "0" / "plan.json")
    members = [Member(name, network.model, plan, 2, None, name) for name in "ab"]
    labels = torch.tensor([0, 0, 1, -1])
    found = evaluate_members(
        Ensemble(tuple(members)), lambda _: torch.stack([a, b]), [(torch.zeros(4), labels)]
    )
    assert found.images == 3
    assert found.top1 == 1.0
    assert found.members == pytest.approx((2 / 3, 1 / 3))
    assert found.disagreement == ((0.0, 1.0), (1.0, 0.0))


def test_members_of_different_widths_answer_in_one_pass(directory: Path) -> None:
    ensemble = open_ensemble(directory)
    sizes = [sum(p.numel() for p in member.network.parameters()) for member in ensemble.members]
    assert sizes[0] > sizes[1] > sizes[2]
    images = torch.rand(5, 1, 8, 8)
    logits = Lineup(ensemble, [CPU, CPU], torch.contiguous_format)(images)
    for index, member in enumerate(ensemble.members):
        torch.testing.assert_close(logits[index], member.network(images))
    assert [member.name for member in open_ensemble(directory, exclude=["half"]).members] == [
        "whole",
        "third",
    ]


def test_recorded_outputs_are_found_by_the_image_and_survive_the_disk(
    directory: Path, tmp_path: Path
) -> None:
    ensemble = open_ensemble(directory)
    run = Lineup(ensemble, [CPU], torch.contiguous_format)
    images = torch.rand(20, 1, 8, 8)
    images[7] = images[3]  # twice the same image
    labels = torch.zeros(20, dtype=torch.int64)
    labels[5] = -1  # unreadable
    batches = [(images[:12], labels[:12]), (images[12:], labels[12:])]
    path = tmp_path / "outputs" / "file.safetensors"
    record_outputs(run, ensemble.digests, batches).save(path)
    found = RecordedOutputs.load(path, ensemble.digests)
    assert found is not None
    assert len(found.keys) == 18
    chosen = torch.tensor([19, 0, 7, 3, 11])
    recalled = found.look_up(images[chosen])
    assert recalled is not None
    torch.testing.assert_close(recalled, run(images[chosen]))
    changed = images[chosen].clone()
    changed[2, 0, 4, 4] += 1e-6
    assert found.look_up(changed) is None
    assert found.look_up(images[5:6]) is None
    assert RecordedOutputs.load(path, ensemble.digests[:2]) is None
    path.write_bytes(path.read_bytes()[:100])
    assert RecordedOutputs.load(path, ensemble.digests) is None


def test_keys_tell_images_and_places_apart() -> None:
    image = torch.arange(64.0).view(1, 1, 8, 8)
    others = torch.cat([image, image.flip(-1), image.flip(-2), image + 1, image.roll(1, -1), image])
    keys = image_keys(others)
    assert len(keys.unique()) == 5
    assert keys[0] == keys[5]
    assert torch.equal(image_keys(others[2:3]), keys[2:3])  # whatever else is in the batch


class Counting(nn.Module):
    """Counts the images that it saw."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.seen = 0

    def forward(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return self.network(images)  # type: ignore[no-any-return]


def test_recalling_teacher_runs_nothing_that_it_remembers(directory: Path) -> None:
    ensemble = open_ensemble(directory)
    counted = [Counting(deepcopy(member.network)) for member in ensemble.members]
    live = EnsembleTeacher(
        NetworkTeacher(counted[0], ["network.layer1"]), [NetworkTeacher(one) for one in counted[1:]]
    )
    images = torch.rand(6, 1, 8, 8)
    whole = live(images)
    outputs = record_outputs(lambda x: live(x).logits, live.identity().split(), [(images, torch.zeros(6))])
    for one in counted:
        one.seen = 0
    plain = RecallingTeacher(live, outputs, features=False)(images[2:4])
    assert [one.seen for one in counted] == [0, 0, 0]
    torch.testing.assert_close(plain.logits, whole.logits[:, 2:4])
    with_features = RecallingTeacher(live, outputs, features=True)(images[2:4])
    assert [one.seen for one in counted] == [2, 0, 0]  # the parent alone, for its features
    torch.testing.assert_close(with_features.features[0], whole.features[0][2:4])
    recalling = RecallingTeacher(live, outputs, features=False)
    recalling(torch.rand(2, 1, 8, 8))
    assert recalling.asked_live == 1


def test_the_parent_is_not_asked_twice(directory: Path) -> None:
    ensemble = open_ensemble(directory)
    parent = ensemble.members[0]
    others = companions(ensemble, parent.digest)
    assert [one.identity() for one in others] == list(ensemble.digests[1:])
    placed = companions(ensemble, parent.digest, [CPU])
    images = torch.rand(3, 1, 8, 8)
    torch.testing.assert_close(placed[0](images).logits[0], ensemble.members[1].network(images))


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
