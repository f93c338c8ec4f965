# SPDX-License-Identifier: Apache-2.0
"""Supervised contrast between the student's and the teacher's readings."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..views import Similarities
from .base import SoftmaxContrastiveLoss


@dataclass(eq=False)
class SupervisedContrastiveLoss(SoftmaxContrastiveLoss):
    r"""
    Makes the student at a position resemble the teacher at all positions of its own side more than those of the other.

        loss_i = mean over p on i's side of -log( exp(s_ip / temperature) / sum_j exp(s_ij / temperature) )        nats

    with s_ij the cosine of the student's logits at i and the teacher's at candidate j. On i's side are its own position and
    the candidates that [`InfoNCELoss`] leaves out as false negatives.

    Source: Khosla et al. 2020, https://huggingface.co/papers/2004.11362, equation 2 (L_out). Differs: between student and
    teacher, so that an anchor's own position is a positive too; sides come from the teachers and not from labels.
    Related: [`SincereLoss`] leaves the other positives out of the sum, and is the one to begin with: here the positives
    compete, so that a student which resembles its own teacher's position more than others of the side is drawn off it
    until all are equal, the more the lower the temperature. [`InfoNCELoss`] has the own position as its one positive and
    leaves the rest of its side out. This loss is never below the log of the number of positives; an anchor with none on
    the other side has nothing to part, and is asked for equal similarities.

    Args:
        temperature (`float`, *optional*, defaults to `0.1`):
            Unitless, > 0. Lower looks only at the hardest negatives. 0.1 is the paper's value.
        false_negative_threshold (`float`, *optional*, defaults to `0.95`):
            Teacher-teacher cosine above which a candidate is a further positive, in (-1, 1]; 1 leaves the own position
            alone, which is [`InfoNCELoss`] with all candidates.

    Shapes:
        [`~views.Similarities`] of A anchors and K candidates -> `(A,)`.

    Raises:
        ValueError: If temperature is not positive, or the threshold is no cosine.

    Example:

    >>> student = torch.tensor([[0.9, 0.9, -0.8]])
    >>> own_side = torch.tensor([[True, True, False]])
    >>> SupervisedContrastiveLoss().per_anchor(Similarities(student, student, torch.tensor([0]), own_side))  # log 2
    tensor([0.6931])
    """

    def per_anchor(self, similarities: Similarities) -> Tensor:
        positives = similarities.on_same_side(self.false_negative_threshold)
        log_shares = torch.log_softmax(similarities.student_teacher / self.temperature, dim=-1)
        return -(log_shares * positives).sum(-1) / positives.sum(-1)
