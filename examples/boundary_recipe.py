# SPDX-License-Identifier: Apache-2.0
"""
How `quickstart.py` and `boundary_ablation.py` train: a probe of the base, a teacher, a student that learns whom to refuse.

The ablation changes one field of a [`Recipe`] at a time; the quickstart runs its defaults.
"""

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

# TRL's trainers send usage data; an example should not.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# trl 1.16 sets the name that transformers 5.23 renamed, and every run would say so.
warnings.filterwarnings("ignore", message=".*gradient_checkpointing.* is deprecated", category=FutureWarning)

import torch
from datasets import Dataset
from peft import AutoPeftModelForCausalLM, LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from hf_ckt import ContrastiveRobustConfig, ContrastiveRobustTrainer
from hf_ckt.checkpoints import last_complete_checkpoint
from hf_ckt.data import load_boundary_set, load_starter_set, to_prompt_completion
from hf_ckt.discovery import load_part
from hf_ckt.evaluation.measuring.chat_format import chat_format
from hf_ckt.evaluation.measuring.refusal_openings import REFUSAL_OPENINGS
from hf_ckt.evaluation.probing.fitting import fit_probe
from hf_ckt.evaluation.probing.rows import probe_rows
from hf_ckt.models.boundary_probe import WEIGHTS, BoundaryProbe
from hf_ckt.models.embedded import native_dtype

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
DTYPE = native_dtype()
# On CPU the plain attention is the faster one for rows as short as these.
LOADING: dict[str, Any] = {"dtype": DTYPE} | ({} if CUDA else {"attn_implementation": "eager"})
SYSTEM_PROMPT = "You are a helpful assistant."  # shorter than the template's own, a quarter of all tokens
TYPOS = load_part("perturbations", "typos")(severity=0.08)
NOISES = {"typos": TYPOS, "wrapper": load_part("perturbations", "wrapper")()}
REFUSE, ANSWER = "refuse", "answer"


@dataclass(frozen=True)
class Recipe:
    """
    What a student is trained on, and who teaches it.

    Args:
        data (`str`):
            `boundary`, or `starter`, whose look-alikes are read twice.
        rows (`int`, *optional*):
            How many of its rows, groups of twins whole. None: all.
        copies (`tuple[str, ...]`):
            Perturbations; each row is there once as it is, and once by each of these.
        clean (`bool`):
            Whether rows are there as they are.
        teacher (`str`):
            Who is heard. `label`: a teacher of refusals on harmful rows, the frozen base on all others. `probe`: a mixture of
            the two on every row, by the probe's probability. `sft`: an adapter fine-tuned on all answers, on every row.
            `none`: nobody.
        teacher_steps (`int`), teacher_batch_size (`int`), student_steps (`int`), batch_size (`int`), learning_rate (`float`):
            Of the trainings.
        benign_words (`int`, *optional*):
            Words of a harmless row's answer that are read. The base teaches there whatever is read, and what decides is how an
            answer begins. None: all.
        objective (`Mapping`):
            Settings of the student's [`~training.config.ContrastiveRobustConfig`].
    """

    data: str = "boundary"
    rows: int | None = None
    copies: tuple[str, ...] = ("typos",)
    clean: bool = True
    teacher: str = "label"
    teacher_steps: int = 120
    teacher_batch_size: int = 8
    student_steps: int = 300
    batch_size: int = 16
    learning_rate: float = 1e-3
    benign_words: int | None = 4
    objective: Mapping[str, Any] = field(
        default_factory=lambda: {
            "task_weight": 0.0,
            "distillation_weight": 1.0,
            "contrastive_weight": 0.0,
            "consistency_weight": 0.0,
            "regularization_weight": 1e-4,
        }
    )


def labelled_rows(recipe: Recipe) -> list[dict[str, Any]]:
    """The rows of a recipe as they are."""
    if recipe.data == "starter":
        rows = [{**row, "twin": None} for row in load_starter_set("train")]
        # Each look-alike twice: they are the harder half of telling a request from its wording.
        return rows + [{**row, "id": f"{row['id']}-again"} for row in rows if row["kind"] == "lookalike"]
    rows = list(load_boundary_set("train"))
    if recipe.rows is None:
        return rows
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["twin"] or row["id"], []).append(row)
    names = [*groups]
    Random(0).shuffle(names)
    kept: list[dict[str, Any]] = []
    for name in names:
        if len(kept) < recipe.rows:
            kept += groups[name]
    return kept


def refusals() -> list[dict[str, Any]]:
    """
    Harmful rows of both sets whose answers open in a few ways: a teacher that refuses in ever other words leaves the decision
    on no token.
    """
    rows = [*load_starter_set("train"), *load_boundary_set("train")]
    return [row for row in rows if row["kind"] == "harmful" and row["response"].startswith(REFUSAL_OPENINGS)]


def student_rows(recipe: Recipe, seed: int) -> Dataset:
    """The student's training set, with the columns `teacher` and `twin`."""
    rows = []
    for row in labelled_rows(recipe):
        harmful = row["kind"] == "harmful"
        answer = row["response"]
        if not harmful and recipe.benign_words is not None:
            answer = " ".join(answer.split()[: recipe.benign_words])
        row = {**row, "response": answer, "teacher": REFUSE if harmful else ANSWER}
        rows += [row] if recipe.clean else []
        for name in recipe.copies:
            noisy = NOISES[name].apply(row["prompt"], Random(f"{seed}:{row['prompt']}"))
            twin = row["twin"] and f"{row['twin']}-{name}"
            rows.append({**row, "id": f"{row['id']}-{name}", "twin": twin, "prompt": noisy})
    return to_prompt_completion(Dataset.from_list(rows), SYSTEM_PROMPT)


def training_arguments(folder: Path, *, seed: int, **kwargs: Any) -> ContrastiveRobustConfig:
    return ContrastiveRobustConfig(
        str(folder),
        lr_scheduler_type="cosine",
        warmup_steps=5,
        logging_steps=5,
        save_steps=50,
        save_total_limit=1,
        max_length=160,
        gradient_checkpointing=False,  # short rows: memory is not what limits
        bf16=DTYPE == "bfloat16",
        use_cpu=not CUDA,
        report_to="none",
        seed=seed,
        model_init_kwargs=LOADING,
        **kwargs,
    )


def lora() -> LoraConfig:
    return LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")


def train(trainer: ContrastiveRobustTrainer) -> None:
    """Trains, or goes on from the last whole checkpoint."""
    trainer.train(resume_from_checkpoint=last_complete_checkpoint(trainer.args.output_dir, required=False))


def base_probe(model: str, folder: Path) -> BoundaryProbe:
    """What the base knows of the boundary: fitted on the boundary set, or read where an earlier run has written it."""
    if not (folder / WEIGHTS).exists():
        base = AutoModelForCausalLM.from_pretrained(model, **LOADING).to(DEVICE)
        chat = chat_format(AutoTokenizer.from_pretrained(model), SYSTEM_PROMPT)
        rows = [probe_rows(load_boundary_set(split), "boundary set", split) for split in ("train", "validation")]
        fit_probe(base, chat, *rows).save(folder)
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
            max_steps=recipe.teacher_steps,
            per_device_train_batch_size=recipe.teacher_batch_size,
            learning_rate=1e-3,
            distillation_weight=0.0,
            contrastive_weight=0.0,
            consistency_weight=0.0,
            regularization_weight=1e-4,
        )
        rows = labelled_rows(recipe) if recipe.teacher == "sft" else refusals()
        texts = [{name: row[name] for name in ("prompt", "response")} for row in rows]
        data = to_prompt_completion(Dataset.from_list(texts), SYSTEM_PROMPT)
        trainer = ContrastiveRobustTrainer(model=model, args=args, train_dataset=data, peft_config=lora())
        train(trainer)
        unfinished = folder.with_name(f"{folder.name}_unfinished")
        trainer.save_model(str(unfinished))
        unfinished.rename(folder)
    return AutoPeftModelForCausalLM.from_pretrained(folder, **LOADING).to(DEVICE)


def student_trainer(
    recipe: Recipe, model: str, teacher: Any, probe: Path, folder: Path, seed: int
) -> ContrastiveRobustTrainer:
    """The trainer of a student over the base in 4 bits."""
    args = training_arguments(
        folder,
        seed=seed,
        max_steps=recipe.student_steps,
        per_device_train_batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        **recipe.objective,
    )
    rows = student_rows(recipe, seed)
    given: dict[str, Any] = {
        "label": {"teachers": {REFUSE: teacher, ANSWER: None}},
        "probe": {"teacher_model": {"soft_route": str(probe), REFUSE: teacher, ANSWER: None}},
        "sft": {"teacher_model": teacher},
        "none": {},
    }[recipe.teacher]
    return ContrastiveRobustTrainer(
        model=model,
        args=args,
        train_dataset=rows if recipe.teacher == "label" else rows.remove_columns("teacher"),
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=DTYPE
        ),
        peft_config=lora(),
        **given,
    )
