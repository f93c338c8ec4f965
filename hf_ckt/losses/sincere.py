# SPDX-License-Identifier: Apache-2.0
"""Supervised contrast without repulsion within a side."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..views import Similarities
from .base import SoftmaxContrastiveLoss


@dataclass(eq=False)
class SincereLoss(SoftmaxContrastiveLoss):
    r"""
    Makes the student at a position resemble the teacher at each position of its own side more than at all of the other.

        loss_i = mean over p on i's side of -log( exp(s_ip / temperature) / (exp(s_ip / temperature)
                 + sum over n on the other of exp(s_in / temperature)) )        nats

    with s_ij the cosine of the student's logits at i and the teacher's at candidate j. On i's side are its own position and
    the candidates that [`InfoNCELoss`] leaves out as false negatives. An anchor with no candidate on the other side has
    loss 0 and no gradient.

    Source: Feeney and Hughes 2023 (SINCERE), https://huggingface.co/papers/2309.14277. Differs: between student and
    teacher, so that an anchor's own position is a positive too; sides come from the teachers and not from labels.
    Related: [`SupervisedContrastiveLoss`] has the other positives in the sum as well, so that the most similar of them, as
    a rule the student's own teacher, is pushed away. [`InfoNCELoss`] is the part of the own position alone.

    Args:
        temperature (`float`, *optional*, defaults to `0.1`):
            Unitless, > 0. Lower looks only at the hardest negatives, and at the positives furthest away. 0.1 is the value
            of [`InfoNCELoss`].
        false_negative_threshold (`float`, *optional*, defaults to `0.95`):
            Teacher-teacher cosine above which a candidate is a further positive, in (-1, 1]; 1 leaves the own position
            alone, which is [`InfoNCELoss`] with all candidates.

    Shapes:
        [`~views.Similarities`] of A anchors and K candidates -> `(A,)`.

    Raises:
        ValueError: If temperature is not positive, or the threshold is no cosine.

    Example:

    >>> student = torch.tensor([[0.9, 0.9, 0.9]])
    >>> own_side = torch.tensor([[True, True, False]])
    >>> SincereLoss().per_anchor(Similarities(student, student, torch.tensor([0]), own_side))  # log 2: not told apart
    tensor([0.6931])
    """

    def per_anchor(self, similarities: Similarities) -> Tensor:
        positives = similarities.on_same_side(self.false_negative_threshold)
        logits = similarities.student_teacher / self.temperature
        negatives = logits.masked_fill(positives, -torch.inf).logsumexp(-1, keepdim=True)
        return ((torch.logaddexp(logits, negatives) - logits) * positives).sum(-1) / positives.sum(-1)
