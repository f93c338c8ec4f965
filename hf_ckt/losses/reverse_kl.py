# SPDX-License-Identifier: Apache-2.0
"""Reverse Kullback-Leibler divergence from the teacher."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .base import Divergence, kl_divergence


@dataclass(eq=False)
class ReverseKLLoss(Divergence):
    r"""
    Keeps the student's mass where the teacher has mass: it may drop a mode of the teacher but invents none.

        loss_i = temperature^2 * KL(p_s || p_t)        nats

    Source: Agarwal et al. 2023 (GKD), https://huggingface.co/papers/2306.13649; on the data's own tokens.
    Related: [`ForwardKLLoss`] covers every mode of the teacher.

    Args:
        temperature (`float`, *optional*, defaults to `1.0`):
            Unitless, > 0: both logits are divided by it.

    Shapes:
        teacher, student log-probabilities `(N, V)` -> `(N,)`.

    Raises:
        ValueError: If temperature is not a positive number: the softmax would be undefined.

    Example:

    >>> import torch
    >>> p, q = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    >>> ReverseKLLoss().divergence(p, q)  # 0.25 log(1 / 2) + 0.75 log(3 / 2)
    tensor([0.1308])
    """

    roles: ClassVar[tuple[str, ...]] = ("distillation",)

    def divergence(self, target: Tensor, prediction: Tensor) -> Tensor:
        return kl_divergence(prediction, target)
