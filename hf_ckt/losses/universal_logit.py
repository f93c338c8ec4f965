# SPDX-License-Identifier: Apache-2.0
"""Forward KL on the tokens that two vocabularies share, universal logit distance on the others."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..checks import require_weight
from ..views import BucketView, TokenViews
from .base import PAIRS, Divergence, kl_divergence


@dataclass(eq=False)
class UniversalLogitLoss(Divergence):
    r"""
    Pulls the student onto a teacher with another tokenizer: by name where a token is shared, by rank where it is not.

        loss_i = KL(b_t || b_s) + unmatched_weight * sum_r |u_t(r) - u_s(r)|        nats, and probability

    b are the probabilities of the buckets (shared tokens, the next token, the others together) and u those of each side's
    others, from the greatest to the smallest. With a teacher of the student's vocabulary nothing is unmatched, and it is
    forward KL, times temperature^2.

    Source: Boizard et al. 2024 (universal logit distillation), https://huggingface.co/papers/2402.12030, for the distance
    by rank, there over all tokens; TRL's GOLD trainer for leaving it to those that have no namesake. Differs: what is
    shared is compared by forward KL at the same text, and the others also as one bucket.
    Related: [`ForwardKLLoss`] sees the unmatched tokens as one bucket.

    Args:
        temperature (`float`, *optional*, defaults to `1.0`):
            Unitless, > 0: both logits are divided by it. With another tokenizer it must be 1.
        unmatched_weight (`float`, *optional*, defaults to `1.0`):
            Weight of the distance by rank, >= 0, in nats per unit of probability; the distance is at most 2.

    Shapes:
        teacher, student log-probabilities `(N, V)` -> `(N,)`.

    Raises:
        ValueError: If temperature is not a positive number, or unmatched_weight is negative.

    Example:

    >>> import torch
    >>> p, q = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    >>> UniversalLogitLoss().divergence(p, q)  # all is shared: 0.5 log(4 / 3)
    tensor([0.1438])
    """

    roles: ClassVar[tuple[str, ...]] = ("distillation",)

    unmatched_weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_weight("unmatched_weight", self.unmatched_weight)

    def divergence(self, target: Tensor, prediction: Tensor) -> Tensor:
        return kl_divergence(target, prediction)

    def per_token(self, views: TokenViews) -> Tensor:
        value = super().per_token(views)
        target, prediction = (getattr(views, name) for name in PAIRS[self.role])
        pair = target.unmatched(prediction) if isinstance(target, BucketView) else None
        if pair is None or self.unmatched_weight == 0:
            return value
        return value + self.unmatched_weight * (pair[0] - pair[1]).abs().sum(-1)
