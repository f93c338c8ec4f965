# SPDX-License-Identifier: Apache-2.0
"""Negative log-likelihood of labels as far as the teacher believes them."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import require_within
from ..views import TokenViews
from .base import TokenLoss


@dataclass(eq=False)
class TrustedNLLLoss(TokenLoss):
    r"""
    Weighs each token of the data by the teacher's confidence in it, so that labels which the teacher takes for wrong
    teach little or nothing.

        loss_i = -c(p_t(y_i)) log p_s(y_i)        nats,    c(p) = p, or with a threshold c(p) = 1 if p >= threshold else 0

    A token that the teacher does not have (added to the student's vocabulary) counts in full. The weights are not made up
    for: a batch of distrusted labels weighs less than one of trusted ones.

    Source: this package's own; Reed et al. 2014 (bootstrapping), https://huggingface.co/papers/1412.6596, mix labels
    with the model's belief to the same end.
    Related: [`DFTLoss`] weighs by the student's own confidence; [`NLLLoss`] believes every label.

    Args:
        threshold (`float`, *optional*, defaults to `None`):
            Probability under the teacher, in (0, 1), below which a token is left out and from which on it counts in
            full. None: each counts by its probability.

    Shapes:
        student, teacher log-probabilities `(N, V)`, labels `(N,)` -> `(N,)`.

    Raises:
        ValueError: If the threshold is not between 0 and 1: every token would count, or none.

    Example:

    >>> import torch
    >>> from hf_ckt.views import LogitsView, TokenViews
    >>> teacher = torch.tensor([[0.75, 0.25], [0.75, 0.25]]).log()
    >>> views = TokenViews(torch.tensor([0, 1]), student=LogitsView(torch.zeros(2, 2)), teacher=LogitsView(teacher))
    >>> TrustedNLLLoss().per_token(views)  # 0.75 and 0.25 of log 2
    tensor([0.5199, 0.1733])
    >>> TrustedNLLLoss(threshold=0.5).per_token(views)
    tensor([0.6931, 0.0000])
    """

    roles: ClassVar[tuple[str, ...]] = ("task",)

    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.threshold is not None:
            require_within(
                "threshold",
                self.threshold,
                0,
                1,
                "Every token would count, or none. Use None to weigh by the probability itself.",
                open_low=True,
                open_high=True,
            )

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"student", "teacher"})

    def per_token(self, views: TokenViews) -> Tensor:
        teacher = views.teacher
        assert teacher is not None
        shared = views.shared_vocab("student", "teacher")
        confidence = teacher.log_prob_of(views.labels.clamp(max=shared - 1), shared).detach().exp()
        # The teacher cannot distrust a token that it does not have.
        confidence = torch.where(views.labels < shared, confidence, 1.0)
        if self.threshold is not None:
            confidence = (confidence >= self.threshold).to(confidence)
        return confidence * F.nll_loss(views.student.log_probs(), views.labels, reduction="none")
