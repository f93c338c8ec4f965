# SPDX-License-Identifier: Apache-2.0
"""The card of a trainer's run: what is read off the trainer for [`build_model_card`]."""

import os
from typing import TYPE_CHECKING, Any

from accelerate.utils import is_peft_model

from ..discovery import part_name, part_settings
from ..models._upstream import get_config_model_id
from ..models.embedded import weights_origin
from ..models.precision import backbone_precision
from .model_card import build_model_card, public_facts
from .provenance import library_versions
from .teacher_rows import teacher_rows

if TYPE_CHECKING:
    from huggingface_hub import ModelCard

_SETTINGS = (
    "learning_rate",
    "lr_scheduler_type",
    "optim",
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "max_length",
    "packing",
    "bf16",
    "fp16",
    "seed",
    "perturbation",
    "consistency_target",
    "consistency_fraction",
    "consistency_every",
    "consistency_budget",
    "label_trust",
    "task_token_weights",
    "distillation_token_weights",
    "token_weights_half_life",
    "token_weights_floor",
    "contrastive_level",
    "contrastive_layers",
    "contrastive_queue_size",
    "contrastive_rejected",
)
_LIBRARIES = ("trl", "transformers", "peft", "torch", "datasets")


def run_card(
    trainer: Any, model_name: str | None, dataset_name: str | None, tags: str | list[str] | None
) -> "ModelCard":
    """
    Returns the card of a [`~training.trainer.ContrastiveRobustTrainer`]'s run.

    Args:
        trainer ([`~training.trainer.ContrastiveRobustTrainer`]):
            Its model, arguments, objective and log are read.
        model_name (`str`, *optional*), dataset_name (`str`, *optional*), tags (`str` or `list[str]`, *optional*):
            As Trainer's `create_model_card` takes them.
    """
    return build_model_card(
        **run_facts(trainer),
        model_name=model_name or os.path.basename(os.path.normpath(trainer.args.output_dir)),
        hub_model_id=trainer.hub_model_id,
        dataset_name=dataset_name,
        tags=[*([tags] if isinstance(tags, str) else tags or []), *trainer._tag_names],
    )


def run_facts(trainer: Any) -> dict[str, Any]:
    """Returns what a trainer knows of its run, by the names that [`build_model_card`] takes; fit for a JSON file."""
    history = trainer.state.log_history
    settings = _settings(trainer)
    backbone = run_backbone(trainer)
    settings["backbone"] = "{weights} weights, multiplied in {compute}".format(**backbone["backbone"])
    summary = {
        name: value for entry in history[-2:] for name, value in entry.items() if isinstance(value, (int, float))
    }
    return {
        "base_model": get_config_model_id(trainer.model.config) or None,
        "base_weights": backbone["base_weights"],
        "teacher": _teachers(trainer),
        "is_adapter": is_peft_model(trainer.model),
        "objective": _terms(trainer),
        "settings": settings,
        "framework_versions": library_versions(*_LIBRARIES),
        "training_summary": summary or None,
    }


def run_backbone(trainer: Any) -> dict[str, Any]:
    """
    Returns how a trainer's backbone is loaded: `backbone`, its [`~models.precision.backbone_precision`], and `base_weights`,
    what its weights are where they are not those that their name stands for.
    """
    autocast = {"bf16": "bfloat16", "fp16": "float16"}.get(str(trainer.accelerator.mixed_precision))
    return {
        "backbone": backbone_precision(trainer.model, autocast),
        "base_weights": weights_origin(get_config_model_id(trainer.model.config) or ""),
    }


def run_record(trainer: Any) -> dict[str, Any]:
    """
    Returns what stands in a JSON file beside saved weights, fit to be published: [`run_backbone`], the terms of the objective,
    the training's settings, the versions of the libraries, and what each teacher is known by, its weights' digits among it.
    """
    return run_backbone(trainer) | public_facts(
        {
            "objective": _terms(trainer),
            "settings": _settings(trainer),
            "versions": library_versions(*_LIBRARIES),
            "teacher": None if trainer._state_to_save is None else trainer._state_to_save.teacher,
        }
    )


def _settings(trainer: Any) -> dict[str, Any]:
    return {name: _plain(getattr(trainer.args, name)) for name in _SETTINGS}


def _teachers(trainer: Any) -> list[dict[str, Any]] | None:
    facts = None if trainer._state_to_save is None else trainer._state_to_save.teacher
    return None if facts is None else teacher_rows(facts, get_config_model_id(trainer.model.config))


def _plain(value: Any) -> Any:
    return getattr(value, "value", value)  # an enum is known by its value


def _terms(trainer: Any) -> list[dict[str, Any]]:
    if trainer.objective is None:
        return [{"role": "task", "loss": trainer.args.loss_type, "weight": 1.0, "schedule": "constant"}]
    return [
        {
            "role": role,
            "loss": part_name(term.loss),
            "weight": term.schedule.weight,
            "schedule": term.schedule.shape,
            "settings": {name: getattr(term.loss, name) for name in part_settings(type(term.loss))},
        }
        for role, term in trainer.objective.terms.items()
    ]
