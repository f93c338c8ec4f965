# SPDX-License-Identifier: Apache-2.0
"""Skew reverse Kullback-Leibler divergence."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..checks import require_within
from .base import Divergence, kl_divergence, log_mixture


@dataclass(eq=False)
class SkewReverseKLLoss(Divergence):
    r"""
    Reverse KL against a teacher mixed with a little of the student, which bounds it where the teacher has no mass.

        loss_i = temperature^2 * KL(p_s || (1 - alpha) p_t + alpha p_s)        nats

    Source: Ko et al. 2024 (DistiLLM), https://huggingface.co/papers/2402.03898.
    Related: [`ReverseKLLoss`] is alpha = 0.

    Args:
        temperature (`float`, *optional*, defaults to `1.0`):
            Unitless, > 0: both logits are divided by it.
        alpha (`float`, *optional*, defaults to `0.1`):
            Share of the student in the mixture, in [0, 1). DistiLLM's value.

    Shapes:
        teacher, student log-probabilities `(N, V)` -> `(N,)`.

    Raises:
        ValueError: If alpha is not in [0, 1): at 1 the divergence is 0 and trains nothing.

    Example:

    >>> import torch
    >>> p, q = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    >>> SkewReverseKLLoss(alpha=0.0).divergence(p, q)  # reverse KL
    tensor([0.1308])
    """

    roles: ClassVar[tuple[str, ...]] = ("distillation",)

    alpha: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        require_within("alpha", self.alpha, 0, 1, "At 1 the divergence is 0 and trains nothing.", open_high=True)

    def divergence(self, target: Tensor, prediction: Tensor) -> Tensor:
        return kl_divergence(prediction, log_mixture(prediction, target, self.alpha))
