# SPDX-License-Identifier: Apache-2.0
"""Forward Kullback-Leibler divergence from the teacher."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .base import Divergence, kl_divergence


@dataclass(eq=False)
class ForwardKLLoss(Divergence):
    r"""
    Pulls the student's next-token distribution onto the teacher's, covering all of the teacher's mass.

        loss_i = temperature^2 * KL(p_t || p_s)        nats

    Source: Hinton et al. 2015, https://huggingface.co/papers/1503.02531. Differs: per token, natural log.
    Related: [`ReverseKLLoss`] seeks the teacher's modes; prefer it when the student is much smaller.

    Args:
        temperature (`float`, *optional*, defaults to `1.0`):
            Unitless, > 0. Higher weighs the teacher's small probabilities more.

    Shapes:
        teacher, student log-probabilities `(N, V)` -> `(N,)`.

    Raises:
        ValueError: If temperature is not a positive number: the softmax would be undefined.

    Example:

    >>> import torch
    >>> p, q = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    >>> ForwardKLLoss().divergence(p, q)  # 0.5 log(4 / 3)
    tensor([0.1438])
    """

    roles: ClassVar[tuple[str, ...]] = ("distillation",)

    def divergence(self, target: Tensor, prediction: Tensor) -> Tensor:
        return kl_divergence(target, prediction)
