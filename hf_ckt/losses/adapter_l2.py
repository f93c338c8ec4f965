# SPDX-License-Identifier: Apache-2.0
"""Squared distance of the adapters from where they change nothing."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..models._upstream import rewrites_base
from .base import ParameterLoss

# peft's types whose identity is known here; of LoRA's variants, those whose update is another product.
_KNOWN = ("LORA", "ADALORA", "IA3", "LN_TUNING")
_OTHER_PRODUCTS = ("kasa_config", "use_bdlora", "use_qalora", "arrow_config")


@dataclass(eq=False)
class AdapterL2Loss(ParameterLoss):
    r"""
    Keeps the adapted weights near the frozen ones: the squared Frobenius norm of every low-rank update.

        loss = sum_layers ||scale B A||_F^2 = sum_layers scale^2 tr((A A^T)(B^T B))

    computed from two r x r products, so the update BA itself is never formed. `scale` is the adapter's own
    (alpha / r, or alpha / sqrt(r) for rsLoRA). A DoRA adapter counts by its low-rank part, before the magnitude, and
    an AdaLoRA adapter by B diag(E) A. Where the initialization of an adapter rewrote the base's weights (PiSSA, OLoRA,
    ...), the original ones are where the adapter began: there it is ||scale (B A - B_0 A_0)||_F^2.

    Adapters without a low-rank part count by the squared distance of their parameters from those that change nothing:
    IA3's factors from 1, the layers of LN tuning from the base's own. Copies of whole modules and of token rows
    (`modules_to_save`, `trainable_token_indices`) do not count. Of adapters of other types the distance is not known.

    Source: Li et al. 2018 (L2-SP), https://huggingface.co/papers/1802.01483, on the update of a LoRA adapter (Hu et
    al. 2021, https://huggingface.co/papers/2106.09685).
    Related: [`ReferenceKLLoss`] keeps the predictions near instead of the weights. Weight decay shrinks A and B
    separately, which is another penalty.

    Raises:
        ValueError: If no adapter trains, or one of a type whose distance is not known: the norm of its parameters
            would pull the student away from its base.
    """

    def __post_init__(self) -> None:
        self._start: dict[tuple[str, str], tuple[Tensor, Tensor]] = {}

    def obstacle(self, model: torch.nn.Module) -> str | None:
        trained = {part for name, p in model.named_parameters() if p.requires_grad for part in name.split(".")}
        for config in (config for name, config in _configs(model).items() if name in trained):
            kind = str(getattr(config.peft_type, "value", config.peft_type))
            variant = next((name for name in _OTHER_PRODUCTS if getattr(config, name, None)), None)
            if kind not in _KNOWN or variant:
                return (
                    f"adapter_l2 does not know the distance of {variant or kind} adapters from the base (use "
                    "regularization_loss='reference_kl')"
                )
        if not any(True for found in (_low_rank_updates(model), _other_parameters(model)) for _ in found):
            return (
                "adapter_l2 is a penalty on an adapter that trains, and the model has none (load it with "
                "is_trainable=True)"
            )
        return None

    def begin(self, model: torch.nn.Module) -> None:
        configs = _configs(model)
        self._start = {
            one.key: (one.down.detach().clone(), one.up.detach().clone())
            for one in _low_rank_updates(model)
            if one.key[1] in configs and rewrites_base(configs[one.key[1]])
        }

    def penalty(self, model: torch.nn.Module) -> Tensor:
        values = [self._low_rank(update) for update in _low_rank_updates(model)]
        values += [(_wide(value) - _wide(identity)).square().sum() for value, identity in _other_parameters(model)]
        if not values:
            raise ValueError(f"regularization_loss: {self.obstacle(model)}. The penalty would be 0 whatever trains.")
        device = values[0].device
        return torch.stack([value.to(device) for value in values]).sum()

    def _low_rank(self, update: "_LowRankUpdate") -> Tensor:
        down, up = _wide(update.down), _wide(update.up)
        if update.key in self._start:
            # B A - B_0 A_0 = (B - B_0) A + B_0 (A - A_0), again a product of two factors and without cancellation.
            start_down, start_up = (_wide(start.to(down.device)) for start in self._start[update.key])
            self._start[update.key] = (start_down, start_up)
            down, up = torch.cat([down, down - start_down], -2), torch.cat([up - start_up, start_up], -1)
        value = update.scale**2 * ((down @ down.mT) * (up.mT @ up)).sum()
        return value if update.bias is None else value + (update.scale * _wide(update.bias)).square().sum()


class _LowRankUpdate(NamedTuple):
    """A `(r, in)`, B `(out, r)` (before them an axis of experts), the scale, and the bias that is added with them."""

    key: tuple[str, str]
    down: Tensor
    up: Tensor
    scale: Any
    bias: Tensor | None


def _configs(model: torch.nn.Module) -> dict[str, Any]:
    return getattr(model, "peft_config", {})


def _low_rank_updates(model: torch.nn.Module) -> Iterator[_LowRankUpdate]:
    """Yields the update of each trainable adapter."""
    for place, module in model.named_modules():
        for first, second in (("lora_A", "lora_B"), ("lora_embedding_A", "lora_embedding_B")):
            downs, ups = getattr(module, first, None), getattr(module, second, None)
            scaling: Any = getattr(module, "scaling", None)
            if not downs or not ups or scaling is None:
                continue
            for name in downs:
                down, up = (getattr(part, "weight", part) for part in (downs[name], ups[name]))
                if down.requires_grad or up.requires_grad:
                    # A convolution's kernel is flattened: the update is then the product of its two matrices.
                    down, up, scale = down.flatten(1), up.flatten(1), scaling[name]
                    experts = getattr(module, "num_experts", 1)
                    if experts > 1:  # PEFT stacks the experts of one parameter, in this order
                        down = down.reshape(experts, -1, down.shape[1])
                        up = up.reshape(up.shape[0], -1, experts).permute(2, 0, 1)
                    if hasattr(module, "lora_E"):  # AdaLoRA: singular values between the two, divided by their number
                        down, scale = down * module.lora_E[name], scale / (module.ranknum[name] + 1e-5)
                    yield _LowRankUpdate((place, name), down, up, scale, getattr(ups[name], "bias", None))


def _other_parameters(model: torch.nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields the trainable parameters of IA3 and LN tuning, each with the values at which it changes nothing."""
    for module in model.modules():
        for factors in getattr(module, "ia3_l", {}).values():
            if factors.requires_grad:
                yield factors, torch.ones_like(factors)
        for copy in getattr(module, "ln_tuning_layers", {}).values():
            base: Any = module.base_layer
            unchanged = dict(base.named_parameters())
            for name, value in copy.named_parameters():
                if value.requires_grad:
                    yield value, unchanged[name]


def _wide(tensor: Tensor) -> Tensor:
    whole = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return whole.to(torch.promote_types(whole.dtype, torch.float32))
