# SPDX-License-Identifier: Apache-2.0
"""Symmetric consistency under noise."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .base import Divergence, kl_divergence


@dataclass(eq=False)
class SymmetricKLLoss(Divergence):
    r"""
    Pulls the predictions on the clean and on the perturbed input towards each other; both get a gradient.

        loss_i = temperature^2 * (KL(p_clean || p_noisy) + KL(p_noisy || p_clean))        nats

    Source: Jiang et al. 2019 (SMART), https://huggingface.co/papers/1911.03437; Aghajanyan et al. 2020
    (R3F), https://huggingface.co/papers/2008.03156.
    Related: [`ConsistencyKLLoss`] leaves the clean prediction where the other terms put it.

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
    >>> SymmetricKLLoss().divergence(p, q)  # 0.25 log 3
    tensor([0.2747])
    """

    roles: ClassVar[tuple[str, ...]] = ("consistency",)

    def divergence(self, target: Tensor, prediction: Tensor) -> Tensor:
        return kl_divergence(target, prediction) + kl_divergence(prediction, target)
