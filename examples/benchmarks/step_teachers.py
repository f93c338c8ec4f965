# SPDX-License-Identifier: Apache-2.0
"""The teachers of the variants that `step.py` measures, each as a user would give it."""

import dataclasses
import os
from collections.abc import Callable
from typing import Any

from datasets import Dataset
from peft import LoraConfig, get_peft_model

from cases import StepCase
from hf_ckt.training.config import ContrastiveRobustConfig
from hf_ckt.training.teacher_cache import cache_teachers
from hf_ckt.training.trainer import ContrastiveRobustTrainer

_TOP_K = 64


def teacher_of(
    name: str,
    case: StepCase,
    load: Callable[[StepCase], Any],
    fields: dict[str, Any],
    columns: dict[str, Any],
    tokenizer: Any,
) -> dict[str, Any]:
    """
    Returns what the trainer is given for a teacher.

    Args:
        name (`str`):
            One of `cases.TEACHERS`.
        case ([`StepCase`]):
            What is measured.
        load (`Callable`):
            Loads the case's model.
        fields (`dict`):
            Of the trainer's configuration.
        columns (`dict`):
            The data; a routed teacher adds one.
        tokenizer (`PreTrainedTokenizerBase`):
            The model's.
    """
    if name == "self":
        return {}
    if name in ("model", "model_4bit"):
        case = dataclasses.replace(case, precision="nf4") if name == "model_4bit" else case
        return {"teacher_model": load(case), "teacher_processing_class": tokenizer}
    folder = os.path.join(fields["output_dir"], "teacher")
    adapted = get_peft_model(load(case), LoraConfig(r=16, target_modules="all-linear"))
    adapted.save_pretrained(folder)
    adapter = {"adapter": folder}
    if name == "routed":
        columns["teacher"] = [("other", "base")[index % 2] for index in range(len(columns["input_ids"]))]
        return {"teachers": {"other": adapter, "base": None}}
    if name in ("cache", "top_k"):
        writes = ContrastiveRobustTrainer(
            model=load(case),
            args=ContrastiveRobustConfig(**fields),
            train_dataset=Dataset.from_dict(columns),
            processing_class=tokenizer,
            peft_config=LoraConfig(r=16, target_modules="all-linear"),
            teacher_model=adapter,
        )
        cache = os.path.join(fields["output_dir"], "cache")
        cache_teachers(writes, cache, top_k=_TOP_K if name == "top_k" else None)
        return {"teacher_model": {"cache": cache}}
    return {"teacher_model": adapter}
