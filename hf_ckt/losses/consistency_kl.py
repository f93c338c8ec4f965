# SPDX-License-Identifier: Apache-2.0
"""Consistency under noise, from a fixed clean target."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .base import Divergence, kl_divergence


@dataclass(eq=False)
class ConsistencyKLLoss(Divergence):
    r"""
    Pulls the prediction on the perturbed input onto the prediction on the clean one, which gets no gradient.

        loss_i = temperature^2 * KL(sg(p_clean) || p_noisy)        nats

    Source: Miyato et al. 2017 (VAT), https://huggingface.co/papers/1704.03976. Differs: per token; the
    perturbation is a part of its own.
    Related: [`SymmetricKLLoss`] moves both predictions.

    Args:
        temperature (`float`, *optional*, defaults to `1.0`):
            Unitless, > 0: both logits are divided by it.

    Shapes:
        clean, noisy log-probabilities `(N, V)` -> `(N,)`.

    Raises:
        ValueError: If temperature is not a positive number: the softmax would be undefined.

    Example:

    >>> import torch
    >>> p, q = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    >>> ConsistencyKLLoss().divergence(p, q)  # 0.5 log(4 / 3)
    tensor([0.1438])
    """

    roles: ClassVar[tuple[str, ...]] = ("consistency",)
    detach_target: ClassVar[bool] = True

    def divergence(self, target: Tensor, prediction: Tensor) -> Tensor:
        return kl_divergence(target, prediction)
