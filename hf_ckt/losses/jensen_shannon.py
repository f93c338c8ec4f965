# SPDX-License-Identifier: Apache-2.0
"""Generalised Jensen-Shannon divergence."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..checks import require_within
from .base import Divergence, kl_divergence, log_mixture


@dataclass(eq=False)
class JensenShannonLoss(Divergence):
    r"""
    A bounded divergence between target p and prediction q, through their mixture m = beta p + (1 - beta) q.

        loss_i = beta KL(p || m) + (1 - beta) KL(q || m)        nats, at most log 2

    Source: Agarwal et al. 2023 (GKD), https://huggingface.co/papers/2306.13649. Differs: `beta` strictly
    between 0 and 1; the limits, which GKD defines as the two KL divergences, have losses of their own. The bound
    is kept at any temperature, so there is no temperature^2.
    Related: [`ForwardKLLoss`] and [`ReverseKLLoss`] are unbounded.

    Args:
        temperature (`float`, *optional*, defaults to `1.0`):
            Unitless, > 0: both logits are divided by it.
        beta (`float`, *optional*, defaults to `0.5`):
            Share of the target in the mixture, in (0, 1).

    Shapes:
        target, prediction log-probabilities `(N, V)` -> `(N,)`.

    Raises:
        ValueError: If beta is not in (0, 1): at its ends the divergence is 0 and trains nothing.

    Example:

    >>> import torch
    >>> p, q = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    >>> JensenShannonLoss().divergence(p, q)
    tensor([0.0338])
    """

    roles: ClassVar[tuple[str, ...]] = ("distillation", "consistency")
    squared_temperature: ClassVar[bool] = False

    beta: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        require_within(
            "beta",
            self.beta,
            0,
            1,
            "At its ends the divergence is 0 and trains nothing.",
            open_low=True,
            open_high=True,
        )

    def divergence(self, target: Tensor, prediction: Tensor) -> Tensor:
        mixture = log_mixture(target, prediction, self.beta)
        return self.beta * kl_divergence(target, mixture) + (1 - self.beta) * kl_divergence(prediction, mixture)
