"""Logit distillation from one network or from several."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def logit_loss(student: Tensor, teachers: Tensor, temperature: float) -> Tensor:
    """Mean over teachers and batch of `T^2 * KL(softmax(teacher / T) || softmax(student / T))`.

    Hinton, Vinyals, Dean 2015 (arXiv 1503.02531); for several teachers Le, Vo, Thoai 2020 (arXiv 2006.11487).

    Averaging over teachers equals distilling from the mean of their softened probabilities up to a constant,
    which has no gradient; it is kept, so that the value is the mean divergence itself.

    Args:
        student: logits (batch, classes).
        teachers: logits (members, batch, classes).
        temperature: T, above 0.
    """
    log_ours = F.log_softmax(student.float() / temperature, dim=-1)
    log_theirs = F.log_softmax(teachers.float() / temperature, dim=-1)
    divergence = (log_theirs.exp() * (log_theirs - log_ours)).sum(dim=-1)
    return divergence.mean() * temperature**2
