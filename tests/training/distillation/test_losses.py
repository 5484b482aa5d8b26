"""The losses, against values worked out by hand."""

from __future__ import annotations

from math import log

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from knapsack_prune.errors import RequestError
from knapsack_prune.settings import ObjectiveSettings
from knapsack_prune.training.distillation import (
    EnsembleTeacher,
    NetworkTeacher,
    Objective,
    StageMatch,
    TeacherOutput,
)
from knapsack_prune.training.distillation.inner import (
    ChannelProjection,
    InnerLoss,
    fit_projections,
    projections,
    target_variances,
)
from knapsack_prune.training.distillation.logits import logit_loss
from knapsack_prune.training.distillation.objective import Student, StudentOutput


def test_kept_compares_with_exactly_the_kept_channels() -> None:
    # The parent's channels are constant 0, 10, 20, 30; the student keeps 1 and 3, and is off by 1 and by 2:
    # the mean of 1^2 and 2^2 is 2.5. Logits agree and add 0; the mean over stage and logits is 1.25.
    theirs = torch.tensor([0.0, 10.0, 20.0, 30.0]).view(1, 4, 1, 1).expand(2, 4, 3, 3)
    ours = torch.tensor([11.0, 32.0]).view(1, 2, 1, 1).expand(2, 2, 3, 3)
    logits = torch.randn(2, 5)
    loss = InnerLoss([StageMatch("stage", 1, 4, (1, 3))], "kept")
    assert loss([ours], logits, [theirs], logits) == pytest.approx(1.25)
    # The kept channels 10 and 30 have variance 100.
    stages = [StageMatch("stage", 1, 4, (1, 3))]
    variances = target_variances([TeacherOutput(logits[None], (theirs,))], stages, "kept")
    assert variances == pytest.approx((100.0, float(logits.var(correction=0))))
    normalised = InnerLoss(stages, "kept", variances)
    assert normalised([ours], logits, [theirs], logits) == pytest.approx(2.5 / 100 / 2)
    # With masks held the student's feature has all four channels, of which the kept ones count.
    wide = torch.tensor([7.0, 11.0, 8.0, 32.0]).view(1, 4, 1, 1).expand(2, 4, 3, 3)
    masked = InnerLoss([StageMatch("stage", 1, 4, (1, 3), masked=True)], "kept")
    assert masked([wide], logits, [theirs], logits) == pytest.approx(1.25)


def test_kept_channels_keep_their_memory_format() -> None:
    # A channels-first target made every layer of a channels-last student convert its gradient.
    stages = [StageMatch("stage", 1, 4, (1, 3))]
    loss = InnerLoss(stages, "kept")
    theirs, logits = torch.randn(2, 4, 3, 3), torch.zeros(2, 5)
    values, gradients = [], []
    for layout in (torch.contiguous_format, torch.channels_last):
        ours = theirs[:, 2:].clone(memory_format=layout).requires_grad_(True)
        value = loss([ours], logits, [theirs.contiguous(memory_format=layout)], logits)
        (gradient,) = torch.autograd.grad(value, ours)
        assert gradient.is_contiguous(memory_format=layout)
        values.append(float(value.detach()))
        gradients.append(gradient)
    assert values[0] == pytest.approx(values[1])
    torch.testing.assert_close(gradients[0], gradients[1])
    # Half of the mean of the squared differences is the loss, since the logits agree.
    torch.testing.assert_close(gradients[0], (ours - theirs[:, [1, 3]]).detach() / ours.numel())


@pytest.mark.parametrize(
    ("shape", "dim"), [((2, 3, 4, 4), 1), ((2, 4, 4, 3), 3), ((2, 6, 3), 2), ((2, 3), 1)]
)
def test_a_projection_is_a_1x1_convolution_along_its_dimension(shape: tuple[int, ...], dim: int) -> None:
    project = ChannelProjection(3, 5, dim)
    feature = torch.randn(shape)
    found = project(feature)
    expected = torch.einsum("...c,oc->...o", feature.movedim(dim, -1), project.weight).movedim(-1, dim)
    torch.testing.assert_close(found, expected)


def test_logit_loss_is_the_divergence_by_hand() -> None:
    # softmax of (log 3, 0) is (3/4, 1/4), of (0, 0) is (1/2, 1/2): KL = 3/4 log 3/2 + 1/4 log 1/2.
    teacher, student = torch.tensor([[log(3.0), 0.0]]), torch.zeros(1, 2)
    expected = 0.75 * log(1.5) + 0.25 * log(0.5)
    assert logit_loss(student, teacher[None], 1.0) == pytest.approx(expected)
    # T = 2 on logits twice as large softens back to the same, times T^2.
    assert logit_loss(2 * student, 2 * teacher[None], 2.0) == pytest.approx(4 * expected)


def test_the_mean_over_members_pulls_towards_their_mean_softened_probabilities() -> None:
    torch.manual_seed(0)
    members, student = torch.randn(3, 4, 6), torch.randn(4, 6, requires_grad=True)
    temperature = 5.0
    (ours,) = torch.autograd.grad(logit_loss(student, members, temperature), student)
    mean = F.softmax(members / temperature, dim=-1).mean(dim=0)
    cross_entropy = -(mean * F.log_softmax(student / temperature, dim=-1)).sum(dim=-1).mean() * temperature**2
    (theirs,) = torch.autograd.grad(cross_entropy, student)
    torch.testing.assert_close(ours, theirs)


def test_the_objective_adds_its_weighted_parts() -> None:
    torch.manual_seed(0)
    settings = ObjectiveSettings(label_weight=0.5, gamma=2.0, logit_weight=3.0, temperature=2.0)
    match = StageMatch("stage", 1, 3, (0, 2))
    objective = Objective(settings, [match], (4.0, 1.0))
    ours = StudentOutput(torch.randn(4, 5), (torch.randn(4, 2, 2, 2),))
    theirs = TeacherOutput(torch.randn(1, 4, 5), (torch.randn(4, 3, 2, 2),))
    labels = torch.tensor([0, 1, 2, 3])
    loss, by_label, inner, by_logit = objective(ours, labels, theirs)
    assert by_label == pytest.approx(float(F.cross_entropy(ours.logits, labels)))
    assert loss == pytest.approx(float(0.5 * by_label + 2 * inner + 3 * by_logit))
    assert min(by_label, inner, by_logit) > 0


def test_teachers_give_no_gradient_and_keep_their_statistics() -> None:
    def network(width: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.Flatten(), nn.Linear(width * 4, 3)
        )

    parent, snapshot = network(4), network(2)
    before = {name: value.clone() for name, value in parent.state_dict().items()}
    teacher = EnsembleTeacher(NetworkTeacher(parent, ["1"]), [NetworkTeacher(snapshot)])
    images = torch.randn(5, 1, 4, 4)
    said = teacher(images)
    assert said.logits.shape == (2, 5, 3)
    torch.testing.assert_close(said.logits[1], snapshot(images))
    assert [tuple(feature.shape) for feature in said.features] == [(5, 4, 2, 2)]
    assert not said.logits.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in parent.state_dict().items())


def test_a_student_gives_logits_and_projected_features() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 3))
    student = Student(network, [StageMatch("0", 1, 4, (0, 3))], "learned")
    logits, feature = student(torch.randn(5, 1, 4, 4))
    assert logits.shape == (5, 3)
    assert feature.shape == (5, 4, 2, 2)
    with pytest.raises(RequestError, match="no module 'layer9'"):
        Student(network, [StageMatch("layer9", 1, 4, (0, 3))], "kept")


@pytest.mark.parametrize("dim", [1, -1])
def test_projections_begin_at_the_least_squares_solution(dim: int) -> None:
    stages = [StageMatch("a", dim, 6, (0, 2, 4)), StageMatch("b", dim, 2, (0, 1))]
    found = projections(stages, "learned")
    draw = torch.Generator().manual_seed(0)
    told = torch.randn(6, 3, generator=draw)
    shape = (8, 3, 4, 4) if dim == 1 else (8, 5, 3)
    batches = []
    for _ in range(2):
        ours = torch.randn(shape, generator=draw)
        theirs = (ours.movedim(dim, -1) @ told.T).movedim(-1, dim)
        batches.append(((ours, ours), (theirs, ours)))
    fit_projections(found, batches)
    torch.testing.assert_close(found[0].weight, told, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found[0](batches[0][0][0]), batches[0][1][0], atol=1e-4, rtol=1e-4)
    assert isinstance(found[1], nn.Identity)


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        ({"gamma": -1.0}, "`gamma` -1.0: .* at least 0"),
        ({"temperature": 0.0}, "`temperature` 0.0: .* above 0"),
        ({"label_smoothing": 1.0}, "`label_smoothing` 1.0: .* under 1"),
        ({"label_weight": 0.0, "gamma": 0.0, "logit_weight": 0.0}, "all weights of the loss are 0"),
    ],
)
def test_numbers_out_of_range_are_refused(wrong: dict[str, float], rule: str) -> None:
    with pytest.raises(RequestError, match=rule):
        ObjectiveSettings(**wrong)  # type: ignore[arg-type]
