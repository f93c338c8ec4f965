# SPDX-License-Identifier: Apache-2.0
"""Running a causal language model's backbone and reading its head, for student and teacher alike."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from ..views import LinearHead
from ._upstream import gathered_head, logit_scale


@contextmanager
def read_head(model: PreTrainedModel) -> Iterator[LinearHead]:
    """Gives the model's head, whole, with its bias, logit scale and softcap."""
    module = model.get_output_embeddings()
    config = model.config.get_text_config()
    weight, bias, context = gathered_head(module.weight, getattr(module, "bias", None))
    with context:
        yield LinearHead(weight, bias, logit_scale(config), getattr(config, "final_logit_softcapping", None))


def run_backbone(model: PreTrainedModel, inputs: dict[str, Any], noise: Tensor | None = None) -> Any:
    """
    Runs the model up to its head.

    Args:
        model (`PreTrainedModel`):
            Causal language model.
        inputs (`dict`):
            Model inputs without labels.
        noise (`torch.Tensor` of shape `(M, T, D)`, *optional*):
            Added to the output of the embedding layer, which leaves models that read `input_ids` elsewhere right; to
            the last M sequences, where there are more.

    Returns:
        The backbone's output; `last_hidden_state` is `(B, T, D)`.
    """
    inputs = {**inputs, "use_cache": False}
    if noise is None:
        return model.base_model(**inputs)

    def add_noise(_module: torch.nn.Module, _args: Any, output: Tensor) -> Tensor:
        added = noise.to(output.device, output.dtype)
        clean = len(output) - len(added)
        return output + (F.pad(added, (0, 0, 0, 0, clean, 0)) if clean else added)

    handle = model.get_input_embeddings().register_forward_hook(add_noise)
    try:
        return model.base_model(**inputs)
    finally:
        handle.remove()


@contextmanager
def frozen(model: torch.nn.Module) -> Iterator[None]:
    """Runs a pass without gradient and in eval mode (no dropout, no NEFTune), then gives each module its flag back."""
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True
        if training and torch.is_autocast_enabled(next(model.parameters()).device.type):
            # A weight cast without gradient would be served from the cache to the pass that needs one.
            torch.clear_autocast_cache()
