# SPDX-License-Identifier: Apache-2.0
"""Relational distillation of the teacher's similarities."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..checks import require_positive
from ..views import Similarities
from .base import ContrastiveLoss, kl_divergence


@dataclass(eq=False)
class RelationalKLLoss(ContrastiveLoss):
    r"""
    Matches the student's row of similarities to the candidates with the teacher's own row.

        loss_i = KL( softmax_j(t_ij / temperature) || softmax_j(s_ij / temperature) )        nats

    with t_ij the teacher-teacher and s_ij the student-teacher cosine of logits. 0 where the student is the teacher.

    Source: Park et al. 2019 (relational distillation), https://huggingface.co/papers/1904.05068, the idea; the
    softmax over candidates follows Fang et al. 2021 (SEED), https://huggingface.co/papers/2101.04731.
    Related: [`InfoNCELoss`] pushes every negative away, also those that the teacher finds similar.

    Args:
        temperature (`float`, *optional*, defaults to `0.1`):
            Unitless, > 0. Lower looks only at the most similar candidates.

    Shapes:
        [`~views.Similarities`] of A anchors and K candidates -> `(A,)`.

    Raises:
        ValueError: If temperature is not positive: the softmax over candidates would be undefined.

    Example:

    >>> same = torch.eye(3)
    >>> RelationalKLLoss().per_anchor(Similarities(same, same, torch.arange(3)))
    tensor([0., 0., 0.])
    """

    temperature: float = 0.1

    def __post_init__(self) -> None:
        require_positive("temperature", self.temperature, "The softmax over candidates would be undefined.")

    def per_anchor(self, similarities: Similarities) -> Tensor:
        target = torch.log_softmax(similarities.teacher_teacher / self.temperature, dim=-1)
        prediction = torch.log_softmax(similarities.student_teacher / self.temperature, dim=-1)
        return kl_divergence(target, prediction)
