# SPDX-License-Identifier: Apache-2.0
"""Total variation distance from the teacher."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .base import Divergence


@dataclass(eq=False)
class TotalVariationLoss(Divergence):
    r"""
    Half the L1 distance of the two distributions: 1 minus the acceptance rate of speculative decoding.

        loss_i = 1/2 sum_v |p_t(v) - p_s(v)|        in [0, 1]

    Source: Wen et al. 2023 (f-DISTILL), https://huggingface.co/papers/2307.15190. The bound is kept at any
    temperature, so there is no temperature^2.
    Related: [`JensenShannonLoss`] is bounded too and smooth at equality.

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
    >>> TotalVariationLoss().divergence(p, q)
    tensor([0.2500])
    """

    roles: ClassVar[tuple[str, ...]] = ("distillation",)
    squared_temperature: ClassVar[bool] = False

    def divergence(self, target: Tensor, prediction: Tensor) -> Tensor:
        return 0.5 * (target.exp() - prediction.exp()).abs().sum(-1)
