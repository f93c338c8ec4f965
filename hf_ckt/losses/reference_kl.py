# SPDX-License-Identifier: Apache-2.0
"""Divergence from the frozen base model."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .base import Divergence, kl_divergence


@dataclass(eq=False)
class ReferenceKLLoss(Divergence):
    r"""
    Keeps the student near its own frozen base, the adapters switched off, so that it forgets little.

        loss_i = temperature^2 * KL(p_base || p_s)        nats

    Source: Li and Hoiem 2016 (learning without forgetting), https://huggingface.co/papers/1606.09282, per
    token.
    Related: [`ForwardKLLoss`] with the self-teacher is the same quantity in the distillation role; the two then share
    one pass.

    Args:
        temperature (`float`, *optional*, defaults to `1.0`):
            Unitless, > 0: both logits are divided by it.

    Shapes:
        base, student log-probabilities `(N, V)` -> `(N,)`.

    Raises:
        ValueError: If temperature is not a positive number: the softmax would be undefined.

    Example:

    >>> import torch
    >>> p, q = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    >>> ReferenceKLLoss().divergence(p, q)  # 0.5 log(4 / 3)
    tensor([0.1438])
    """

    roles: ClassVar[tuple[str, ...]] = ("regularization",)
    detach_target: ClassVar[bool] = True

    def divergence(self, target: Tensor, prediction: Tensor) -> Tensor:
        return kl_divergence(target, prediction)
