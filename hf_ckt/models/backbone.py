# SPDX-License-Identifier: Apache-2.0
"""
Running a causal language model's backbone and reading its head, for student and teacher alike.

What is below the head and what the head does are assumptions about a model's code. They are compared with its own logits
at the first pass.
"""

import logging
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from ..views import LinearHead
from ._upstream import adapters_in_force, embedding_scale, gathered_head, logit_scale, softcap, whole_shape

logger = logging.getLogger(__name__)

# By how much a head may differ from the model's own logits, as a share of their size (root mean squares): in float32 a
# hundred times its rounding; in narrower dtypes, of which a handful of operations each round by half an epsilon, two.
_FLOAT32_TOLERANCE, _EPSILONS = 1e-5, 2
# An accelerator may multiply float32 as TF32, which has ten bits of mantissa.
_TF32_EPSILON = 2**-10
_OTHER_HEAD = (
    "Losses and comparisons with a teacher would be of another distribution, and nothing would say so. Take a model whose "
    "head is one product with its output embedding, scaled and capped."
)


@contextmanager
def read_head(model: PreTrainedModel) -> Iterator[LinearHead]:
    """
    Gives the model's head, whole, with its bias, logit scale and softcap.

    Sharded, it is whole within the context only, unless it is detached there; a pass of the model would end it early.
    """
    module = model.get_output_embeddings()
    config = model.config.get_text_config()
    weight, bias, context = gathered_head(module.weight, getattr(module, "bias", None))
    with context:
        yield LinearHead(weight, bias, logit_scale(config), softcap(config))


def run_backbone(model: PreTrainedModel, inputs: dict[str, Any], noise: Tensor | None = None) -> Any:
    """
    Runs the model up to its head.

    Args:
        model (`PreTrainedModel`):
            Causal language model.
        inputs (`dict`):
            Model inputs without labels.
        noise (`torch.Tensor` of shape `(M, T, D)`, *optional*):
            Added to the embeddings, in units of their table: where a family multiplies that by a factor, so is the noise.
            It enters at the output of the embedding layer, which leaves models that read `input_ids` elsewhere right;
            that of the last M sequences, where there are more.

    Returns:
        The backbone's output; `last_hidden_state` is `(B, T, D)`.

    Raises:
        ValueError: At the first pass, if the model's own logits are not what [`read_head`] makes of these states.
    """
    _compare_once(model, inputs)
    embedding: Any = model.get_input_embeddings()
    compiled: _CompiledPasses | None = getattr(model, "_hf_ckt_compiled_passes", None)
    run = _run if compiled is None else compiled.program(model, with_noise=noise is not None)
    handle = embedding.register_forward_hook(_add_noise) if compiled is None and noise is not None else None
    try:
        return run(model, {**inputs, "use_cache": False}, noise)
    finally:
        embedding._hf_ckt_noise = None
        if handle is not None:
            handle.remove()


def compile_backbone(model: PreTrainedModel, **options: Any) -> None:
    """
    Lets every pass of [`run_backbone`] over a model run through `torch.compile`, what is done with its states outside.

    Args:
        model (`PreTrainedModel`):
            Causal language model.
        options (`Any`):
            As for `torch.compile`.
    """
    if not hasattr(model, "_hf_ckt_compiled_passes"):
        # There for good: what is compiled does not notice a hook that comes or goes.
        model.get_input_embeddings().register_forward_hook(_add_noise)
    model._hf_ckt_compiled_passes = _CompiledPasses(options)  # type: ignore[assignment]


class _CompiledPasses:
    """The compiled passes over a backbone, one for each way it is run."""

    def __init__(self, options: dict[str, Any]):
        self.options, self.programs = options, dict[tuple, Callable]()

    def __reduce__(self) -> tuple:
        # Of a copied or pickled model: what was compiled is no part of it.
        return _CompiledPasses, (self.options,)

    def program(self, model: PreTrainedModel, with_noise: bool) -> Callable:
        way = with_noise, adapters_in_force(model), model.training, torch.is_grad_enabled()
        if way not in self.programs:
            # Each with a code object of its own: of one, the compiler keeps no more than eight variants.
            function = types.FunctionType(_run.__code__.replace(), _run.__globals__)
            self.programs[way] = torch.compile(function, **self.options)
        return self.programs[way]


def _run(model: PreTrainedModel, inputs: dict[str, Any], noise: Tensor | None) -> Any:
    # Set here and not by the caller: a compiler takes the shapes of what a module already holds for constants.
    embedding: Any = model.get_input_embeddings()
    embedding._hf_ckt_noise = noise
    return model.base_model(**inputs)


def _add_noise(embedding: Any, _args: Any, output: Tensor) -> Tensor:
    noise = getattr(embedding, "_hf_ckt_noise", None)
    if noise is None:
        return output
    added = (noise.to(output.device) * embedding_scale(embedding)).to(output.dtype)
    clean = len(output) - len(added)
    return output + (F.pad(added, (0, 0, 0, 0, clean, 0)) if clean else added)


def embedding_width(model: PreTrainedModel) -> int:
    """Returns D of the noise that [`run_backbone`] adds."""
    embedding: Any = model.get_input_embeddings()
    return whole_shape(embedding.weight)[-1]


def trained_from(model: PreTrainedModel) -> int | None:
    """
    Returns how many of a model's layers, from below, hold nothing that trains: 0 where its embeddings train, all where none does.
    None where its layers are in no list of their own.
    """
    count = model.config.get_text_config().num_hidden_layers
    lists = (one for one in model.modules() if isinstance(one, torch.nn.ModuleList) and len(one) == count)
    layers = next(lists, None)
    if layers is None or any(one.requires_grad for one in model.get_input_embeddings().parameters()):
        return None if layers is None else 0
    trained = (number for number, layer in enumerate(layers) if any(one.requires_grad for one in layer.parameters()))
    return next(trained, count)


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


def _compare_once(model: PreTrainedModel, inputs: dict[str, Any]) -> None:
    """Compares each head that a model is read with (that of an adapter, that of its base) with its logits, once."""
    config = model.config.get_text_config()
    head = adapters_in_force(model), logit_scale(config), softcap(config)
    compared: set[tuple] = getattr(model, "_hf_ckt_compared_heads", set())
    if head not in compared:
        require_own_logits(model, inputs)
        model._hf_ckt_compared_heads = compared | {head}  # type: ignore[assignment]


def require_own_logits(model: PreTrainedModel, inputs: dict[str, Any]) -> None:
    """
    Raises ValueError where the head as it is read does not give the model's own logits, beyond what rounding explains.

    They are compared at up to eight different tokens of a batch, read as one short text in eval mode.

    Args:
        model (`PreTrainedModel`):
            Causal language model.
        inputs (`dict`):
            A batch's inputs, of which the tokens are taken.
    """
    tokens = inputs["input_ids"].unique()
    short = {"input_ids": tokens[:: max(1, len(tokens) // 8)][None, :8], "use_cache": False}
    with frozen(model):
        try:
            own = model.forward(**short).logits
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a model's own code asks for beyond tokens
            logger.warning(
                "%s: it gives no logits for a few tokens alone (%s), so it was not checked that its head is one product "
                "with its output embedding, scaled and capped. If it is not, every loss is of another distribution.",
                type(model).__name__,
                error,
            )
            return
        hidden = getattr(model.base_model(**short), "last_hidden_state", None)
        if hidden is None:
            raise ValueError(
                f"{type(model).__name__}: what its `base_model` returns has no last_hidden_state, so there is nothing to "
                f"multiply its output embedding with. {_OTHER_HEAD}"
            )
        with read_head(model) as head:
            if not head.weight.is_floating_point() or head.weight.shape != (own.shape[-1], hidden.shape[-1]):
                raise ValueError(
                    f"{type(model).__name__}: its own logits are over {own.shape[-1]} ids, from states of width "
                    f"{hidden.shape[-1]}, but its output embedding is {head.weight.dtype} of shape "
                    f"{tuple(head.weight.shape)}. {_OTHER_HEAD}"
                )
            read = head.logits(hidden)[:, -own.shape[1] :]  # some models give the last position alone
        own = own.to(read)
        multiplied = torch.get_autocast_dtype(own.device.type) if torch.is_autocast_enabled(own.device.type) else None
        epsilon = max(torch.finfo(dtype).eps for dtype in (multiplied or head.weight.dtype, hidden.dtype))
    if own.device.type != "cpu":
        epsilon = max(epsilon, _TF32_EPSILON)
    # NaN is no model's own logit but a fault, which the loss tells; equal infinities have no difference.
    apart = (own != read) & ~own.isnan() & ~read.isnan()
    difference = torch.where(apart, own - read, 0).abs()
    tolerance = max(_FLOAT32_TOLERANCE, _EPSILONS * epsilon)
    if difference.square().mean() > tolerance**2 * own.nan_to_num(0, 0, 0).square().mean():
        place = difference.argmax()
        raise ValueError(
            f"{type(model).__name__}: one of its own logits is {own.flatten()[place]:.6g}, but its output embedding with "
            f"logit scale {head.logit_scale:g} and softcap {head.softcap} gives {read.flatten()[place]:.6g}. {_OTHER_HEAD}"
        )
