# SPDX-License-Identifier: Apache-2.0
"""Dynamic fine-tuning."""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from ..views import TokenViews
from .base import TokenLoss


@dataclass(eq=False)
class DFTLoss(TokenLoss):
    r"""
    Negative log-likelihood weighed by the student's own (detached) probability of the token.

        loss_i = -sg(p_s(y_i)) log p_s(y_i)        nats

    Source: Wu et al. 2025, https://huggingface.co/papers/2508.05629; Trainer's `loss_type="dft"`.
    Related: [`NLLLoss`] lets improbable tokens dominate the gradient.

    Shapes:
        student log-probabilities `(N, V)`, labels `(N,)` -> `(N,)`.

    Example:

    >>> import torch
    >>> from hf_ckt.views import LogitsView, TokenViews
    >>> views = TokenViews(labels=torch.tensor([0]), student=LogitsView(torch.zeros(1, 4)))
    >>> DFTLoss().per_token(views)  # log 4 / 4
    tensor([0.3466])
    """

    roles: ClassVar[tuple[str, ...]] = ("task",)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"student"})

    def per_token(self, views: TokenViews) -> Tensor:
        nll = F.nll_loss(views.student.log_probs(), views.labels, reduction="none")
        return (-nll.detach()).exp() * nll
