# SPDX-License-Identifier: Apache-2.0
"""What a run has and lacks, read off a trainer once its model and data are prepared."""

from typing import Any

import torch
from accelerate.utils import is_peft_model
from transformers.integrations import is_deepspeed_zero3_enabled

from ..losses.base import ParameterLoss
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
        own_loss=trainer.compute_loss_func is not None,
        smoothing=trainer.label_smoother is not None,
        split_sequences=split is not None and (split.cp_enabled or split.sp_enabled),
    )
    no_base = why_no_frozen_base(trainer._causal_lm)
    no_teacher = f"there is no teacher: none was given as teacher_model=... (in a shell --teacher-model-name-or-path), and {no_base}"
    return RunFacts(
        no_teacher=None if teacher_given or no_base is None else no_teacher,
        no_regularization=_no_regularization(trainer, no_base),
        obstacle=obstacle,
        float16=any(one.requires_grad and one.dtype == torch.float16 for one in trainer.model.parameters()),
    )


def _no_regularization(trainer: Any, no_base: str | None) -> str | None:
    name, loss = trainer.args.regularization_loss, trainer.args.build_loss("regularization")
    if not isinstance(loss, ParameterLoss):
        return no_base and f"{name} compares with the base model, but {no_base}"
    if not is_peft_model(trainer.model):
        return f"{name} is a penalty on an adapter, and the model has none; pass peft_config=... (in a shell --use-peft)"
    if is_deepspeed_zero3_enabled():
        return (
            f"{name} reads whole weights, and under ZeRO-3 each process has a part of them; use "
            "regularization_loss='reference_kl', or ZeRO-2"
        )
    return loss.obstacle(trainer._causal_lm)
