# SPDX-License-Identifier: Apache-2.0
"""What a run has and lacks, read off a trainer once its model and data are prepared."""

from typing import Any

import torch
from accelerate.utils import is_peft_model
from torch import nn
from transformers.integrations import is_deepspeed_zero3_enabled

from ..losses.base import ParameterLoss
from ..models._upstream import bound_to_outer_call
from ..models.frozen_base import why_no_frozen_base
from .resolution import RunFacts, find_obstacle


def find_facts(trainer: Any, *, teacher_given: bool) -> RunFacts:
    """
    Returns what the trainer's run lacks.

    Args:
        trainer ([`~training.trainer.ContrastiveRobustTrainer`]):
            Its model is prepared, no objective is built yet.
        teacher_given (`bool`):
            A teacher was given.
    """
    is_peft, split = is_peft_model(trainer.model), trainer.accelerator.parallelism_config
    obstacle = find_obstacle(
        vision=trainer._is_vision_dataset,
        prompt_learning=is_peft and trainer.model.active_peft_config.is_prompt_learning,
        bound_adapter=bound_to_outer_call(trainer.model) if is_peft else None,
        own_loss=trainer.compute_loss_func is not None,
        smoothing=trainer.label_smoother is not None,
        split_sequences=split is not None and (split.cp_enabled or split.sp_enabled),
    )
    no_base = why_no_frozen_base(trainer._causal_lm)
    no_teacher = f"there is no teacher: none was given as teacher_model=... (in a shell --teacher-model-name-or-path), and {no_base}"
    return RunFacts(
        no_teacher=None if teacher_given or no_base is None else no_teacher,
        no_base=no_base,
        no_regularization=_no_regularization(trainer, no_base),
        no_noisy_view=_no_noisy_view(trainer.model) if is_peft else None,
        obstacle=obstacle,
        float16=any(one.requires_grad and one.dtype == torch.float16 for one in trainer.model.parameters()),
    )


def _no_noisy_view(model: Any) -> str | None:
    if any(getattr(config, "alora_invocation_tokens", None) for config in model.peft_config.values()):
        return (
            "activated LoRA (alora_invocation_tokens) looks once per call for where it begins in the clean prompts, so a "
            "noisy prompt would be read with an adapter that begins elsewhere; use LoRA"
        )
    return None


def _no_regularization(trainer: Any, no_base: str | None) -> str | None:
    name, loss = trainer.args.regularization_loss, trainer.args.build_loss("regularization")
    if not isinstance(loss, ParameterLoss):
        return no_base and f"{name} compares with the base model, but {no_base}"
    if not is_peft_model(trainer.model):
        return (
            f"{name} is a penalty on an adapter, and the model has none; pass peft_config=... (in a shell --use-peft)"
        )
    if is_deepspeed_zero3_enabled():
        return (
            f"{name} reads whole weights, and under ZeRO-3 each process has a part of them; use "
            "regularization_loss='reference_kl', or ZeRO-2"
        )
    return loss.obstacle(trainer._causal_lm)


def require_trainable(model: nn.Module) -> None:
    """Raises ValueError where no parameter of the model trains."""
    if not any(parameter.requires_grad for parameter in model.parameters()):
        adapter = (
            "an adapter is loaded for inference unless it is asked for" if is_peft_model(model) else "all are frozen"
        )
        raise ValueError(
            f"model: none of its parameters is trainable ({adapter}), so training would change nothing. Load an adapter "
            "with PeftModel.from_pretrained(..., is_trainable=True), or unfreeze what is to be trained."
        )


def require_one_adapter(inputs: dict[str, Any]) -> None:
    """Raises ValueError where a batch chooses the adapters of its rows, or where they begin."""
    for name in ("adapter_names", "alora_offsets"):
        if name in inputs:
            raise ValueError(
                f"{name}: holds for the rows of the clean batch, and the teacher's and the noisy view's passes have rows of "
                "their own, which would be read with other adapters. Leave it out, or set all extra weights to 0."
            )
