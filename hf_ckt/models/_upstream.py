# SPDX-License-Identifier: Apache-2.0
"""
Every private or undocumented name of trl, transformers, peft and bitsandbytes that the package touches, with the
version it was read from and the reason. When a release moves a seam, this is the file to mend.
"""

import functools
import types
from collections.abc import Callable, Container, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from peft.tuners.adalora import AdaLoraModel
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor
from transformers import PreTrainedModel
from trl.data_utils import _tokenize as tokenize_example
from trl.trainer.utils import create_model_from_path, get_config_model_id, maybe_gather_lm_head_ctx

__all__ = [
    "adapters_disabled",
    "adapters_in_force",
    "adapters_switched",
    "base_parameters",
    "bound_to_outer_call",
    "cache_argument",
    "cache_of",
    "checkpoints_reentrantly",
    "create_model_from_path",
    "embedding_scale",
    "end_training",
    "gathered_head",
    "get_config_model_id",
    "has_switchable_adapters",
    "install_objective_forward",
    "keep_4bit_differentiable",
    "load_balancing_loss",
    "logit_scale",
    "rewrites_base",
    "softcap",
    # trl 1.16, private: how SFTTrainer tokenizes a text or a list of messages, with a tokenizer or a processor. A prompt
    # that is tokenized in another way would not be found in its document.
    "tokenize_example",
    "trained_in_place",
    "uncompiled",
    "whole_shape",
]


def install_objective_forward(model: PreTrainedModel) -> None:
    """
    Lets `model(..., objective=f)` return `f(model, inputs)` instead of logits; without `objective` nothing changes.

    The objective runs several backbone passes and reads the head; inside one forward of the wrapped model the hooks of
    DDP, FSDP and accelerate's autocast fire once around all of it. trl 1.16 patches the forward of the base model for
    its fused head in the same way (`add_fused_lm_head`), so both patches stack, in either order.
    """
    if getattr(model, "_hf_ckt_objective_forward", False):
        return
    inner = model.forward

    # `generate` validates its arguments against the signature, so the original one is kept.
    @functools.wraps(type(model).forward)
    def forward(self: PreTrainedModel, *args: Any, objective: Callable | None = None, **kwargs: Any) -> Any:
        if objective is None:
            return inner(*args, **kwargs)
        return objective(self, {name: value for name, value in kwargs.items() if value is not None})

    model.forward = types.MethodType(forward, model)  # type: ignore[method-assign]
    model._hf_ckt_objective_forward = True  # type: ignore[assignment]


def _switchable(model: torch.nn.Module) -> Iterator[Any]:
    return (module for module in model.modules() if isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper)))


def _kept(module: Any) -> torch.nn.Module:
    return module.original_module if isinstance(module, AuxiliaryTrainingWrapper) else module.base_layer


def has_switchable_adapters(model: torch.nn.Module) -> bool:
    """Whether the model holds adapter layers that can be switched off (LoRA, DoRA, IA3, ...; no prompt learning)."""
    return any(isinstance(module, BaseTunerLayer) for module in _switchable(model))


def trained_in_place(model: torch.nn.Module) -> list[str]:
    """
    Returns the names of the trainable parameters that stay in force when the adapters are switched off.

    In peft 0.21 a switched-off module is its `base_layer` (adapter layers) or its `original_module` (copies of whole
    modules); all else in it is then unused. Outside of such modules lie biases trained by `bias="all"` or `"lora_only"`
    and whatever was unfrozen by hand.
    """
    switched = set()
    for module in _switchable(model):
        switched |= {id(parameter) for parameter in module.parameters()} - {id(p) for p in _kept(module).parameters()}
    return [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in switched]


def base_parameters(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """
    Yields the parameters that the model has with its adapters switched off, by the names that they have without them.

    In peft 0.21 what stands in for a module keeps it inside; see [`trained_in_place`].
    """
    outer: Any = model
    inner: torch.nn.Module = outer.get_base_model() if hasattr(model, "get_base_model") else model
    paths = {id(module): name.split(".") for name, module in inner.named_modules()}
    kept = [(paths[id(module)], paths[id(_kept(module))]) for module in _switchable(inner)]
    for name, parameter in inner.named_parameters():
        steps = name.split(".")
        around = [(whole, own) for whole, own in kept if steps[: len(whole)] == whole]
        if all(steps[: len(own)] == own for _, own in around):
            between = {place for whole, own in around for place in range(len(whole), len(own))}
            yield ".".join(step for place, step in enumerate(steps) if place not in between), parameter


def bound_to_outer_call(model: Any) -> str | None:
    """
    Returns the type of a PEFT model's adapter if it computes something once per call of the whole model, or None.

    X-LoRA routes between its experts by a pass of its own, Poly by `task_ids`, and a shadow network is run beside: in
    peft 0.21 each by a forward of its own around the base's, which all others call as it is. AdaLoRA's only adds to a
    loss, which the objective does not take from there.
    """
    tuner = getattr(model, "base_model", None)
    if not isinstance(tuner, BaseTuner) or isinstance(tuner, AdaLoraModel):
        return None
    kind = next(iter(model.peft_config.values())).peft_type
    return str(getattr(kind, "value", kind)) if type(tuner).forward is not BaseTuner.forward else None


def rewrites_base(config: Any) -> str | None:
    """
    Returns the setting of an adapter's config by which peft changed the base's own weights when it added the adapter.

    Read in peft 0.21: of LoRA's initializations by name only these four leave the base as it is (the update of
    "orthogonal" and "mica" begins at 0); "pissa", "olora", "corda", "lora_ga" subtract the first update from it, "loftq"
    rounds it, and KaSA drops its smallest singular values. A name that came later is taken for one that rewrites.
    """
    initialization = getattr(config, "init_lora_weights", None)
    if isinstance(initialization, str) and initialization.lower() not in ("gaussian", "eva", "orthogonal", "mica"):
        return f"init_lora_weights={initialization!r}"
    return next((name for name in ("kasa_config", "layer_replication") if getattr(config, name, None)), None)


@contextmanager
def adapters_disabled(model: torch.nn.Module) -> Iterator[None]:
    """
    Switches all adapters off for a pass and back on afterwards.

    peft 0.21's public `disable_adapter` also sets `requires_grad` on the adapter weights, which un-freezes what the
    user had frozen; its layers and wrappers only read `_disable_adapters` in their forward.
    """
    modules = [module for module in _switchable(model) if not module._disable_adapters]
    try:
        for module in modules:
            module._disable_adapters = True
        yield
    finally:
        for module in modules:
            module._disable_adapters = False


@contextmanager
def adapters_switched(model: torch.nn.Module, name: str) -> Iterator[None]:
    """
    Reads a pass with one of the model's adapters in place of those that are active, and leaves everything as it was.

    peft 0.21's public `set_adapter` also makes the adapter trainable and freezes the others; its layers and wrappers
    only read `_active_adapter` in their forward. Layers are their base where they hold no adapter of that name, and
    wrappers where none is named.
    """
    before = [(module, module._active_adapter, module._disable_adapters) for module in _switchable(model)]
    try:
        for module, _, _ in before:
            held = isinstance(module, BaseTunerLayer) or name in module._adapters
            module._active_adapter, module._disable_adapters = [name] if held else [], False
        yield
    finally:
        for module, active, disabled in before:
            module._active_adapter, module._disable_adapters = active, disabled


def adapters_in_force(model: torch.nn.Module) -> tuple[str, ...]:
    """
    Returns the adapters that a pass over the model would go with: none inside [`adapters_disabled`], one inside
    [`adapters_switched`].
    """
    first = next((one for one in _switchable(model) if one._disable_adapters or one.active_adapters), None)
    return () if first is None or first._disable_adapters else tuple(first.active_adapters)


def keep_4bit_differentiable(model: torch.nn.Module) -> None:
    """
    Keeps 4-bit layers on CPU in the layout that has a gradient.

    On CPUs with AVX512-BF16, bitsandbytes 0.50 repacks a `Linear4bit` in place at its first pass in eval mode, for a
    kernel that has no backward. From then on no gradient flows through the layer, in training mode either, and nothing
    says so: an evaluation, or a self-teacher's pass, would silently stop the adapters below it from learning. Its state
    dict, which peft asks for when it loads a further adapter, turns the layout back with the scales of other weights.
    """
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
            weight: Any = module.weight
            if getattr(weight.quant_state, "packing_format_for_cpu", False):
                from bitsandbytes.functional import _convert_weight_packed_for_cpu_inverse

                weight.data, state = _convert_weight_packed_for_cpu_inverse(weight.data, weight.quant_state)
                if not state.nested:
                    # Its inverse leaves the scales transposed. Repacking rounded them to bfloat16, which stays.
                    state.absmax = state.absmax.t().reshape(-1).float()
                weight.quant_state = state


def cache_argument(parameters: Container[str]) -> str:
    """
    Returns under which name a forward with these parameters takes its keys and values.

    transformers 5.24 renamed `past_key_values` to `cache` and warns of the old name; a model's own code may keep it.
    """
    return "cache" if "cache" in parameters else "past_key_values"


def cache_of(output: Any) -> Any:
    """Returns the keys and values in a model's output, under whichever of the two names; None where it has none."""
    cache = getattr(output, "cache", None)
    return getattr(output, "past_key_values", None) if cache is None else cache


def checkpoints_reentrantly(args: Any, model: torch.nn.Module) -> bool:
    """
    Returns whether gradient checkpointing is on, and reentrant.

    trl 1.16 takes `selective` out of the options and then sets `use_reentrant=False`; transformers 5.17 takes out
    `every_n_layers` and `offload`, and with nothing left sets False too. What is left goes to torch 2.13, for which options
    that leave `use_reentrant` out mean True. Where the arguments do not ask for it, the model may checkpoint all the same:
    its layers hold the function that does.
    """
    if args.gradient_checkpointing:
        options = dict(args.gradient_checkpointing_kwargs or {})
        if options.pop("selective", None):
            return False
        rest = {name: value for name, value in options.items() if name not in ("every_n_layers", "offload")}
        return bool(rest) and rest.get("use_reentrant") in (None, True)
    checkpointed = [module for module in model.modules() if getattr(module, "gradient_checkpointing", False)]
    calls = [getattr(module, "_gradient_checkpointing_func", None) for module in checkpointed]
    return any(isinstance(one, functools.partial) and one.keywords.get("use_reentrant", True) for one in calls)


def end_training(trainer: Any) -> None:
    """
    Closes a trainer's trackers and its process group, once and after all that needs the other processes.

    transformers 5.23 has `Trainer.end` for it, 5.17 has not yet; there it is accelerate that is asked, as `end` does.
    """
    end = getattr(trainer, "end", None) or trainer.accelerator.end_training
    end()


def gathered_head(weight: Any, bias: Any) -> tuple[Tensor, Tensor | None, AbstractContextManager]:
    """
    Returns the whole head where FSDP2 or ZeRO-3 sharded it, and the context in which it stays whole.

    trl 1.16's `maybe_gather_lm_head_ctx` handles ZeRO-3, tied embeddings included; FSDP2's DTensor gathers itself.
    """
    if hasattr(weight, "full_tensor"):
        weight = weight.full_tensor()
        bias = None if bias is None else bias.full_tensor()  # type: ignore[attr-defined]
    return weight, bias, maybe_gather_lm_head_ctx(weight, bias)


def whole_shape(parameter: Any) -> torch.Size:
    """Returns a parameter's shape, also where ZeRO-3 left an empty piece of it: deepspeed keeps it as `ds_shape`."""
    return torch.Size(getattr(parameter, "ds_shape", parameter.shape))


def embedding_scale(embedding: Any) -> Any:
    """
    Returns the factor that an embedding module multiplies its table by, 1 for most.

    transformers 5.23: Gemma and its kin, BART and its kin keep it as `embed_scale`. Granite and others multiply after the
    module, which needs no factor here. peft 0.21 wraps the module, for trained tokens twice.
    """
    for name in ("token_adapter", "base_layer"):
        embedding = getattr(embedding, name, embedding)
    scale = getattr(embedding, "embed_scale", None)
    return 1.0 if scale is None else scale


def logit_scale(config: Any) -> float:
    """
    Returns the factor a text config applies to its logits.

    transformers 5.23 has no common name for it: Cohere `logit_scale`, Muse `output_multiplier`, Falcon-H1
    `lm_head_multiplier`; Granite and MiniCPM3 divide by `logits_scaling`, HyperCLOVA X multiplies by it. MPT's
    `logit_scale` is a field that its code does not read.
    """
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):
        value = getattr(config, name, None)
        if value is not None and config.model_type != "mpt":
            return float(value)
    value = getattr(config, "logits_scaling", None)
    if value is None:
        return 1.0
    return float(value) if config.model_type == "hyperclovax" else 1.0 / float(value)


def softcap(config: Any) -> float | None:
    """
    Returns the cap c of a text config's logits, which become c * tanh(logits / c); None without.

    transformers 5.23: Gemma 2 to 4 and Beam `final_logit_softcapping`, RecurrentGemma `logits_soft_cap`, xLSTM
    `output_logit_soft_cap`.
    """
    for name in ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap"):
        value = getattr(config, name, None)
        if value is not None:
            return float(value)
    return None


def uncompiled(model: Any) -> Any:
    """
    Returns a model without the `torch.compile` around it; what is wrapped further in (DDP, PEFT) stays.

    torch 2.13 and accelerate's regional compilation keep the model under one name, and neither has a public one.
    """
    return getattr(model, "_orig_mod", model)


def load_balancing_loss(router_logits: Any, config: Any, attention_mask: Tensor | None) -> Tensor:
    """Returns the auxiliary loss of a mixture of experts; every family of transformers 5.23 shares Mixtral's."""
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    loss = load_balancing_loss_func(router_logits, config.num_experts, config.num_experts_per_tok, attention_mask)
    return torch.as_tensor(loss)  # 0 where a model has no router logits
