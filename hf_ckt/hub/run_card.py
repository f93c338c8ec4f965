# SPDX-License-Identifier: Apache-2.0
"""The card of a trainer's run: what is read off the trainer for [`build_model_card`]."""

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from accelerate.utils import is_peft_model
from datasets import Dataset

from ..data.rows_fingerprint import rows_fingerprint
from ..discovery import part_name, part_settings
from ..models._upstream import get_config_model_id
from ..models.embedded import weights_origin
from ..models.precision import backbone_precision
from .model_card import build_model_card
from .provenance import library_versions, short_device_name
from .public import public_command, public_facts, public_name
from .teacher_rows import find_licence, teacher_rows

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
LARGE = 2**30
"""Bytes of training data that are read for their fingerprint in about a minute. For more, the other processes would wait at the first
save, until they gave up."""
_LIBRARIES = ("trl", "transformers", "peft", "torch", "datasets")


def run_card(trainer: Any, model_name: str | None, tags: str | list[str] | None) -> "ModelCard":
    """
    Returns the card of a [`~training.trainer.ContrastiveRobustTrainer`]'s run.

    Args:
        trainer ([`~training.trainer.ContrastiveRobustTrainer`]):
            Its model, arguments, objective, data and log are read.
        model_name (`str`, *optional*), tags (`str` or `list[str]`, *optional*):
            As Trainer's `create_model_card` takes them.
    """
    return build_model_card(
        **run_facts(trainer),
        model_name=model_name or os.path.basename(os.path.normpath(trainer.args.output_dir)),
        tags=[*([tags] if isinstance(tags, str) else tags or []), *trainer._tag_names],
    )


def run_facts(trainer: Any) -> dict[str, Any]:
    """
    Returns what a trainer knows of its run, by the names that [`build_model_card`] takes; fit for a JSON file, and to be
    published. The rows that it trains on are counted and their fingerprint is taken, for which all are read, once; not of more
    than [`LARGE`] bytes.
    """
    found = local_facts(trainer)
    names = {
        "base_model": public_name(found.pop("base_model")),
        "hub_model_id": found.pop("hub_model_id"),  # also where a folder of this machine has the same name
        "data": _data(trainer),
    }
    return names | public_facts(found | {"command": public_command(sys.argv)})


def local_facts(trainer: Any) -> dict[str, Any]:
    """Returns what [`run_facts`] does but for data and command, with names as they are on this machine: not to be published."""
    history = trainer.state.log_history
    backbone = run_backbone(trainer)
    base_model = get_config_model_id(trainer.model.config) or None
    summary = {
        name: value for entry in history[-2:] for name, value in entry.items() if isinstance(value, (int, float))
    }
    return {
        "base_model": base_model,
        "base_licence": base_model and find_licence(base_model),
        "base_weights": backbone["base_weights"],
        "teacher": _teachers(trainer),
        "is_adapter": is_peft_model(trainer.model),
        "hub_model_id": trainer.hub_model_id,
        "objective": _terms(trainer),
        "settings": _settings(trainer)
        | {"backbone": "{weights} weights, multiplied in {compute}".format(**backbone["backbone"])},
        "framework_versions": library_versions(*_LIBRARIES),
        "training_summary": summary or None,
        "device": _device(trainer),
        "resumed": trainer.resumed,
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
    Returns what stands in a JSON file beside saved weights, fit to be published: [`run_facts`], of which the card can be written
    again; the `backbone`'s precision; and `teacher_manifest`, what each teacher is known by, its weights' digits among it.
    """
    manifest = None if trainer._state_to_save is None else trainer._state_to_save.teacher
    return run_facts(trainer) | {
        "backbone": run_backbone(trainer)["backbone"],
        "teacher_manifest": public_facts(manifest),
    }


def _device(trainer: Any) -> str:
    """What it trains on, in how many processes."""
    processes = trainer.accelerator.num_processes
    name = short_device_name(trainer.accelerator.device.type)
    return name if processes == 1 else f"{name}, {processes} processes"


def _data(trainer: Any) -> dict[str, Any]:
    """The training data: their names as far as they are known; of rows that are not streamed the number, and the fingerprint."""
    given: str | Sequence[str] | None = trainer.dataset_name
    names = [given] if isinstance(given, str) else list(given or ())
    rows = trainer.given_rows
    if trainer.data_facts is None:
        is_whole = isinstance(rows, Dataset)
        trainer.data_facts = {
            "rows": len(rows) if is_whole else None,
            "fingerprint": rows_fingerprint(rows) if is_whole and _bytes(rows) <= LARGE else None,
        }
    return {"names": [public_name(name) for name in names if name], **trainer.data_facts}


def _bytes(rows: Dataset) -> float:
    """About how much is read of rows, which may be few of those that their table holds."""
    return rows.data.nbytes * len(rows) / max(rows.data.num_rows, 1)


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
