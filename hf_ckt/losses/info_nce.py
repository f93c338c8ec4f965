# SPDX-License-Identifier: Apache-2.0
"""InfoNCE between the student's and the teacher's readings."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..views import Similarities
from .base import SoftmaxContrastiveLoss


@dataclass(eq=False)
class InfoNCELoss(SoftmaxContrastiveLoss):
    r"""
    Makes the student at a position resemble the teacher at the same position more than at any other.

        loss_i = -log( exp(s_ii / temperature) / sum_j exp(s_ij / temperature) )        nats

    with s_ij the cosine of the student's logits at i and the teacher's at candidate j. A candidate where the teacher
    says nearly the same as at i (teacher-teacher cosine above the threshold) is no negative and is left out. At the level
    `decision` it is, with several teachers, one whose document was given the same teacher, and with a soft route one on the
    same side of p = 0.5. An anchor whose negatives are all left out has loss 0 and no gradient.

    Source: van den Oord et al. 2018 (CPC), https://huggingface.co/papers/1807.03748; Tian et al. 2019
    (CRD), https://huggingface.co/papers/1910.10699, for contrast between teacher and student. Differs: on the logits'
    cosine, through the heads' Gram matrices.
    Related: [`SincereLoss`] and [`SupervisedContrastiveLoss`] take what is left out here as further positives.
    [`RelationalKLLoss`] matches the teacher's own similarities instead of pushing all negatives away. This loss is not 0
    when student and teacher agree: it is at its least, -log of the positive's share.

    Args:
        temperature (`float`, *optional*, defaults to `0.1`):
            Unitless, > 0. Lower looks only at the hardest negatives. 0.1 is the value of CRD and SimCLR. It goes
            with the number of candidates: exp(c / temperature) negatives of cosine 0 weigh together as much as a positive of
            cosine c, 55 of them at 0.1 and c = 0.4. With far fewer candidates the loss is as good as solved; raise it.
        false_negative_threshold (`float`, *optional*, defaults to `0.95`):
            Teacher-teacher cosine above which a candidate is left out, in (-1, 1]; 1 keeps all.

    Shapes:
        [`~views.Similarities`] of A anchors and K candidates -> `(A,)`.

    Raises:
        ValueError: If temperature is not positive, or the threshold is no cosine.

    Example:

    >>> similarities = Similarities(torch.zeros(2, 4), torch.zeros(2, 4), torch.tensor([0, 1]))
    >>> InfoNCELoss().per_anchor(similarities)  # log 4: nothing learnt yet
    tensor([1.3863, 1.3863])
    """

    def per_anchor(self, similarities: Similarities) -> Tensor:
        false_negative = similarities.on_same_side(self.false_negative_threshold)
        false_negative = false_negative.scatter(1, similarities.positive[:, None], False)
        logits = (similarities.student_teacher / self.temperature).masked_fill(false_negative, -torch.inf)
        return F.cross_entropy(logits, similarities.positive, reduction="none")
