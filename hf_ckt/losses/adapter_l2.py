# SPDX-License-Identifier: Apache-2.0
"""Squared norm of the adapters' weight updates."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from .base import ParameterLoss

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class AdapterL2Loss(ParameterLoss):
    r"""
    Keeps the adapted weights near the frozen ones: the squared Frobenius norm of every low-rank update.

        loss = sum_layers ||scale B A||_F^2 = sum_layers scale^2 tr((A A^T)(B^T B))

    computed from two r x r products, so the update BA itself is never formed. `scale` is the adapter's own
    (alpha / r, or alpha / sqrt(r) for rsLoRA). A DoRA adapter counts by its low-rank part, before the magnitude.
    Adapters without a low-rank part (IA3, ...) count by the squared norm of the trainable parameters.

    Source: Li et al. 2018 (L2-SP), https://huggingface.co/papers/1802.01483, on the update of a LoRA adapter (Hu et
    al. 2021, https://huggingface.co/papers/2106.09685).
    Related: [`ReferenceKLLoss`] keeps the predictions near instead of the weights. Weight decay shrinks A and B
    separately, which is another penalty.
    """

    def penalty(self, model: torch.nn.Module) -> Tensor:
        values = [_update_norm(a, b, scale) for a, b, scale in _low_rank_pairs(model)]
        if not values:
            _say_fallback()
            values = [_wide(p).square().sum() for p in model.parameters() if p.requires_grad]
        device = values[0].device
        return torch.stack([value.to(device) for value in values]).sum()


@cache
def _say_fallback() -> None:
    logger.warning("adapter_l2: no low-rank adapter found; using the squared norm of the trainable parameters.")


def _low_rank_pairs(model: torch.nn.Module) -> Iterator[tuple[Tensor, Tensor, float]]:
    """Yields A `(r, in)`, B `(out, r)` (before them an axis of experts) and the scale of each trainable adapter."""
    for module in model.modules():
        for first, second in (("lora_A", "lora_B"), ("lora_embedding_A", "lora_embedding_B")):
            downs, ups = getattr(module, first, None), getattr(module, second, None)
            scaling: Any = getattr(module, "scaling", None)
            # AdaLoRA's update has a third factor between the two.
            if not downs or not ups or scaling is None or hasattr(module, "lora_E"):
                continue
            for name in downs:
                down, up = (getattr(part, "weight", part) for part in (downs[name], ups[name]))
                if down.requires_grad or up.requires_grad:
                    # A convolution's kernel is flattened: the update is then the product of its two matrices.
                    down, up = down.flatten(1), up.flatten(1)
                    experts = getattr(module, "num_experts", 1)
                    if experts > 1:  # PEFT stacks the experts of one parameter, in this order
                        down = down.reshape(experts, -1, down.shape[1])
                        up = up.reshape(up.shape[0], -1, experts).permute(2, 0, 1)
                    yield down, up, float(scaling[name])


def _update_norm(down: Tensor, up: Tensor, scale: float) -> Tensor:
    down, up = _wide(down), _wide(up)
    return scale**2 * ((down @ down.mT) * (up.mT @ up)).sum()


def _wide(tensor: Tensor) -> Tensor:
    whole = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return whole.to(torch.promote_types(whole.dtype, torch.float32))
