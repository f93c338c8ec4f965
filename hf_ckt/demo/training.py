# SPDX-License-Identifier: Apache-2.0
"""The trainings of a [`Recipe`]: a probe of the base, a teacher, and a student that learns whom to refuse."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import AutoPeftModelForCausalLM, LoraConfig
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from ..checkpoints import last_complete_checkpoint
from ..data import load_boundary_set, to_prompt_completion
from ..evaluation.measuring.answers import greedy_answers
from ..evaluation.measuring.chat_format import chat_format
from ..evaluation.probing.fitting import fit_probe
from ..evaluation.probing.rows import probe_rows
from ..models.boundary_probe import FACTS, BoundaryProbe
from ..training.config import ContrastiveRobustConfig
from ..training.progress import LineProgressCallback
from ..training.trainer import ContrastiveRobustTrainer
from .recipe import DTYPE, SYSTEM_PROMPT, Recipe, kept
from .rows import ANSWER, REFUSE, in_batches_by_length, labelled_rows, refusals, student_rows

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
# On CPU the plain attention is the faster one for rows as short as these.
LOADING: dict[str, Any] = {"dtype": DTYPE} | ({} if CUDA else {"attn_implementation": "eager"})
PROBE_STRENGTH = 1e-2  # what `fit-probe` takes of the four that it tries by default, which costs four times as long


def training_arguments(
    folder: Path, *, seed: int, in_order: bool | int = False, save_steps: int = 50, **kwargs: Any
) -> ContrastiveRobustConfig:
    """What all trainings share; `in_order` reads the rows as they lie."""
    return ContrastiveRobustConfig(
        str(folder),
        train_sampling_strategy="sequential" if in_order else "random",
        lr_scheduler_type="cosine",
        warmup_steps=5,
        logging_steps=5,
        save_steps=save_steps,
        save_total_limit=1,
        max_length=1024,  # none is left out
        gradient_checkpointing=False,  # short rows: memory is not what limits
        bf16=DTYPE == "bfloat16",
        use_cpu=not CUDA,
        report_to="none",
        seed=seed,
        model_init_kwargs=LOADING,
        **kwargs,
    )


def lora(model: str, untrained: float = 0.0, rank: int = Recipe.rank) -> LoraConfig:
    """LoRA on every linear layer above a share of the model's depth."""
    first = int(untrained * AutoConfig.from_pretrained(model).get_text_config().num_hidden_layers)
    below = "|".join(map(str, range(first)))  # of a dense decoder: experts have numbers too
    return LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules="all-linear",
        exclude_modules=rf"(.*\.)?(layers|h|blocks)\.({below})\..*" if first else None,
        task_type="CAUSAL_LM",
    )


def train(trainer: ContrastiveRobustTrainer, title: str = "student") -> None:
    """Trains, or goes on from the last whole checkpoint."""
    trainer.add_callback(LineProgressCallback(title))
    trainer.train(resume_from_checkpoint=last_complete_checkpoint(str(trainer.args.output_dir), required=False))


def nf4() -> BitsAndBytesConfig:
    """The student's backbone: 4 bits, computed in the machine's own dtype."""
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=DTYPE)


def frozen_base(model: str) -> Any:
    """What the student's adapter is trained over."""
    return AutoModelForCausalLM.from_pretrained(model, quantization_config=nf4(), device_map=DEVICE, **LOADING)


def answers_of_base(model: str, file: Path) -> dict[str, str]:
    """The first words of the base's greedy answer to each benign training prompt, by id; or those that an earlier run kept."""

    def make() -> dict[str, str]:
        rows = [row for row in load_boundary_set("train") if row["kind"] != "harmful"]
        asked: dict[str, Any] = {"system_prompt": SYSTEM_PROMPT, "new_tokens": 16, "title": "the base's own answers"}
        said = greedy_answers(
            frozen_base(model), AutoTokenizer.from_pretrained(model), [row["prompt"] for row in rows], **asked
        )
        return {row["id"]: answer for row, answer in zip(rows, said, strict=True)}

    return kept(file, make)


def base_probe(recipe: Recipe, model: str, folder: Path) -> BoundaryProbe:
    """
    What the base in 4 bits, over which the student is trained, knows of the boundary: fitted on the labelled rows of the
    boundary set, or read where an earlier run has written it.
    """
    if not (folder / FACTS).exists():  # written last
        base = frozen_base(model)
        chat = chat_format(AutoTokenizer.from_pretrained(model), SYSTEM_PROMPT)
        train = Dataset.from_list(labelled_rows(replace(recipe, data="boundary")))
        rows = (train, load_boundary_set("validation"))
        read = (probe_rows(part, "boundary set", "data") for part in rows)
        fit_probe(base, chat, *read, strengths=(PROBE_STRENGTH,)).save(folder)
    return BoundaryProbe.load(folder)


def fine_tuned(recipe: Recipe, model: str, folder: Path, seed: int) -> Any:
    """
    An adapter fine-tuned on answers: on [`refusals`] alone, as the teacher of refusals, or on all rows of the recipe, where
    `teacher` is `sft`.
    Loaded where an earlier run has finished it.
    """
    if not (folder / "adapter_config.json").exists():
        # Supervised fine-tuning with a light hand on the adapter. With the last weight at 0 this is SFTTrainer, which on CPU
        # projects the prompts' positions through the head too and takes about twice the time.
        args = training_arguments(
            folder.with_name(f"{folder.name}_training"),
            seed=seed,
            in_order=recipe.by_length,
            max_steps=recipe.teacher_steps,
            per_device_train_batch_size=recipe.teacher_batch_size,
            learning_rate=1e-3,
            distillation_weight=0.0,
            contrastive_weight=0.0,
            consistency_weight=0.0,
            regularization_weight=1e-4,
        )
        rows = labelled_rows(recipe) if recipe.teacher == "sft" else refusals(recipe)
        texts = [{name: row[name] for name in ("prompt", "response")} for row in rows]
        if recipe.by_length:
            texts = in_batches_by_length(texts, recipe.teacher_batch_size, seed)
        data = to_prompt_completion(Dataset.from_list(texts), SYSTEM_PROMPT)
        trainer = ContrastiveRobustTrainer(model=model, args=args, train_dataset=data, peft_config=lora(model))
        train(trainer, "teacher")
        unfinished = folder.with_name(f"{folder.name}_unfinished")
        trainer.save_model(str(unfinished))
        unfinished.rename(folder)
    return AutoPeftModelForCausalLM.from_pretrained(folder, **LOADING).to(DEVICE)


def student_trainer(
    recipe: Recipe,
    model: str,
    teacher: Any,
    probe: Path,
    folder: Path,
    seed: int,
    answers: Mapping[str, str] | None = None,
) -> ContrastiveRobustTrainer:
    """The trainer of a student over the frozen base."""
    args = training_arguments(
        folder,
        seed=seed,
        max_steps=recipe.student_steps,
        per_device_train_batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        in_order=recipe.by_length,
        **recipe.objective,
    )
    rows = student_rows(recipe, seed, answers)
    given: dict[str, Any] = {
        "label": {"teachers": {REFUSE: teacher, ANSWER: None}},
        "label_clean": {
            "teachers": {REFUSE: {"privileged_context": teacher}, ANSWER: {"privileged_context": None}},
        },
        "probe": {"teacher_model": {"soft_route": str(probe), REFUSE: teacher, ANSWER: None}},
        "sft": {"teacher_model": teacher},
        "none": {},
    }[recipe.teacher]
    trainer = ContrastiveRobustTrainer(
        model=model,
        args=args,
        train_dataset=rows if "teachers" in given else rows.remove_columns("teacher"),
        quantization_config=nf4() if recipe.four_bit else None,
        peft_config=lora(model, recipe.untrained, recipe.rank),
        **given,
    )
    if recipe.float32_adapter:
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    return trainer
