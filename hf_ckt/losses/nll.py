# SPDX-License-Identifier: Apache-2.0
"""Negative log-likelihood."""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from ..views import TokenViews
from .base import TokenLoss


@dataclass(eq=False)
class NLLLoss(TokenLoss):
    r"""
    Raises the student's probability of the next token of the data: the loss of supervised fine-tuning.

        loss_i = -log p_s(y_i)        nats

    Source: maximum likelihood; Trainer's `loss_type="nll"`.
    Related: [`DFTLoss`] weighs each token by the student's own confidence.

    Shapes:
        student log-probabilities `(N, V)`, labels `(N,)` -> `(N,)`.

    Example:

    >>> import torch
    >>> from hf_ckt.views import LogitsView, TokenViews
    >>> views = TokenViews(labels=torch.tensor([0]), student=LogitsView(torch.zeros(1, 4)))
    >>> NLLLoss().per_token(views)  # log 4
    tensor([1.3863])
    """

    roles: ClassVar[tuple[str, ...]] = ("task",)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"student"})

    def per_token(self, views: TokenViews) -> Tensor:
        return F.nll_loss(views.student.log_probs(), views.labels, reduction="none")
