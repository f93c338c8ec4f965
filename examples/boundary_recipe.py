# SPDX-License-Identifier: Apache-2.0
"""
How `boundary_ablation.py` trains: a probe of the base, a teacher, a student that learns whom to refuse.

The ablation changes one field of a [`Recipe`] at a time. Its last chosen row has the defaults.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
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
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from hf_ckt import ContrastiveRobustConfig, ContrastiveRobustTrainer
from hf_ckt.checkpoints import last_complete_checkpoint
from hf_ckt.data import load_boundary_set, load_starter_set, to_prompt_completion
from hf_ckt.discovery import load_part
from hf_ckt.evaluation.measuring.chat_format import chat_format
from hf_ckt.evaluation.measuring.refusal_openings import REFUSAL_OPENINGS
from hf_ckt.evaluation.probing.fitting import fit_probe
from hf_ckt.evaluation.probing.rows import probe_rows
from hf_ckt.models.boundary_probe import FACTS, BoundaryProbe
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
UNLABELLED_ANSWER = "I can't help with that."


@dataclass(frozen=True)
class Recipe:
    """
    What a student is trained on, and who teaches it.

    Args:
        data (`str`):
            `boundary`, or `starter`, whose look-alikes are read twice.
        rows (`int`, *optional*):
            How many of its rows are labelled for the student and the probe, groups of twins whole. None: all. The teacher of
            refusals is the same.
        unlabelled (`bool`):
            Whether the other rows are read too, as prompts without label or answer, each once; a probe has to route them.
        copies (`tuple[str, ...]`):
            Perturbations; each row is there once as it is, and once by each of these.
        clean (`bool`):
            Whether rows are there as they are.
        harmful_times (`int`):
            How often harmful rows are there, each noisy copy with noise of its own. They are a fifth of the set.
        refusal_words (`int`, *optional*), answer_words (`int`, *optional*):
            Words of a refusal and of any other answer that are read: what decides is how it begins. Of answers more, so that a
            student that has begun to answer does not end in a refusal. None: all.
        teacher (`str`):
            Who is heard. `label`: a teacher of refusals on harmful rows, the frozen base on all others. `probe`: a mixture of
            the two on every row, by the probe's probability. `sft`: an adapter fine-tuned on all answers, on every row.
            `none`: nobody.
        teacher_steps (`int`), teacher_batch_size (`int`), student_steps (`int`), batch_size (`int`), learning_rate (`float`):
            Of the trainings.
        untrained (`float`):
            Share of the layers, from below, that the student's adapter leaves as they are. What a probe reads lies above it or
            little below, and a step is cheaper.
        float32_adapter (`bool`):
            Whether the adapter is trained in float32. SFTTrainer makes that of a 4-bit backbone bfloat16, in which a small step is
            rounded away.
        by_length (`bool`):
            Whether a batch holds rows of like length, which leaves little padding to compute. Batches come in a random order:
            `train_sampling_strategy="group_by_length"` goes from long rows to short ones, which are of other kinds.
        objective (`Mapping`):
            Settings of the student's [`~training.config.ContrastiveRobustConfig`].
    """

    data: str = "boundary"
    rows: int | None = None
    unlabelled: bool = False
    copies: tuple[str, ...] = ("typos",)
    clean: bool = True
    harmful_times: int = 1
    refusal_words: int | None = 6
    answer_words: int | None = 14
    teacher: str = "label"
    teacher_steps: int = 120
    teacher_batch_size: int = 8
    student_steps: int = 300
    batch_size: int = 16
    learning_rate: float = 3e-3
    untrained: float = 1 / 3
    float32_adapter: bool = True
    by_length: bool = True
    objective: Mapping[str, Any] = field(
        default_factory=lambda: {
            "task_weight": 0.0,
            "distillation_weight": 1.0,
            "contrastive_weight": 0.0,
            "consistency_weight": 0.0,
            "regularization_weight": 1e-5,
        }
    )

    def __post_init__(self) -> None:
        if self.unlabelled and self.teacher != "probe":
            raise ValueError(
                f"unlabelled=True: teacher={self.teacher!r} cannot tell which of two teachers an unlabelled prompt should hear. "
                "Take teacher='probe'."
            )


def digest(*facts: Any) -> str:
    """
    A short name for what a kept file depends on: these facts, and the packaged training rows. A file of other facts then has
    another name, and is not gone on with.
    """
    data = [hash_of_rows(load) for load in (load_boundary_set, load_starter_set)]
    return hashlib.sha256(json.dumps([facts, data, DTYPE], sort_keys=True).encode()).hexdigest()[:8]


@cache
def hash_of_rows(load: Callable[..., Dataset]) -> str:
    return hashlib.sha256(json.dumps(load("train").to_list()).encode()).hexdigest()


def labelled_rows(recipe: Recipe) -> list[dict[str, Any]]:
    """The labelled rows of a recipe as they are."""
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
    labelled = labelled_rows(recipe)
    for row in labelled:
        harmful = row["kind"] == "harmful"
        words = recipe.refusal_words if harmful else recipe.answer_words
        answer = " ".join(row["response"].split()[:words])
        row = {**row, "response": answer, "teacher": REFUSE if harmful else ANSWER}
        rows += _copies(row, recipe, seed, recipe.harmful_times if harmful else 1)
    if recipe.unlabelled:
        known = {row["id"] for row in labelled}
        for row in load_boundary_set("train"):
            if row["id"] not in known:
                # Who reads the prompt mixes the teachers; whatever is answered, the decision stands before its first word.
                row = {**row, "response": UNLABELLED_ANSWER, "teacher": "", "kind": "", "category": "", "twin": None}
                rows += _copies(row, recipe, seed)
    if recipe.by_length:
        rows = in_batches_by_length(rows, recipe.batch_size, seed)
    return to_prompt_completion(Dataset.from_list(rows), SYSTEM_PROMPT)


def in_batches_by_length(rows: list[dict[str, Any]], batch_size: int, seed: int) -> list[dict[str, Any]]:
    """Rows in a random order of batches, each of rows of like length, to be read one after another."""
    random = Random(seed)
    rows = random.sample(rows, len(rows))
    batches = []
    for start in range(0, len(rows), 20 * batch_size):
        part = sorted(rows[start : start + 20 * batch_size], key=lambda row: len(row["prompt"]) + len(row["response"]))
        batches += [part[first : first + batch_size] for first in range(0, len(part), batch_size)]
    random.shuffle(batches)
    batches.sort(key=len, reverse=True)  # one that is not full comes last, so that it moves no other
    return [row for batch in batches for row in batch]


def _copies(row: dict[str, Any], recipe: Recipe, seed: int, times: int = 1) -> list[dict[str, Any]]:
    """A row as it is, and by each perturbation, so often; each of a group of twins of its own."""
    found = []
    for time in range(times):
        for name in ([""] if recipe.clean else []) + [*recipe.copies]:
            end = f"-{name}{time or ''}" if name or time else ""
            prompt = row["prompt"]
            if name:
                prompt = NOISES[name].apply(prompt, Random(f"{seed}:{row['id']}:{time}:{prompt}"))
            twin = row["twin"] and f"{row['twin']}{end}"
            found.append({**row, "id": f"{row['id']}{end}", "twin": twin, "prompt": prompt})
    return found


def training_arguments(folder: Path, *, seed: int, in_order: bool, **kwargs: Any) -> ContrastiveRobustConfig:
    """What all trainings share; `in_order` reads the rows as they lie."""
    return ContrastiveRobustConfig(
        str(folder),
        train_sampling_strategy="sequential" if in_order else "random",
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


def lora(model: str, untrained: float = 0.0) -> LoraConfig:
    """Rank 16 on every linear layer above a share of the model's depth."""
    first = int(untrained * AutoConfig.from_pretrained(model).get_text_config().num_hidden_layers)
    below = "|".join(map(str, range(first)))  # of a dense decoder: experts have numbers too
    return LoraConfig(
        r=16,
        lora_alpha=32,
        target_modules="all-linear",
        exclude_modules=rf"(.*\.)?(layers|h|blocks)\.({below})\..*" if first else None,
        task_type="CAUSAL_LM",
    )


def train(trainer: ContrastiveRobustTrainer) -> None:
    """Trains, or goes on from the last whole checkpoint."""
    trainer.train(resume_from_checkpoint=last_complete_checkpoint(trainer.args.output_dir, required=False))


def nf4() -> BitsAndBytesConfig:
    """The student's backbone: 4 bits, computed in the machine's own dtype."""
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=DTYPE)


def base_probe(recipe: Recipe, model: str, folder: Path) -> BoundaryProbe:
    """
    What the base in 4 bits, over which the student is trained, knows of the boundary: fitted on the labelled rows of the
    boundary set, or read where an earlier run has written it.
    """
    if not (folder / FACTS).exists():  # written last
        base = AutoModelForCausalLM.from_pretrained(model, quantization_config=nf4(), device_map=DEVICE, **LOADING)
        chat = chat_format(AutoTokenizer.from_pretrained(model), SYSTEM_PROMPT)
        train = Dataset.from_list(labelled_rows(replace(recipe, data="boundary")))
        rows = (train, load_boundary_set("validation"))
        fit_probe(base, chat, *(probe_rows(part, "boundary set", "data") for part in rows)).save(folder)
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
        rows = labelled_rows(recipe) if recipe.teacher == "sft" else refusals()
        texts = [{name: row[name] for name in ("prompt", "response")} for row in rows]
        if recipe.by_length:
            texts = in_batches_by_length(texts, recipe.teacher_batch_size, seed)
        data = to_prompt_completion(Dataset.from_list(texts), SYSTEM_PROMPT)
        trainer = ContrastiveRobustTrainer(model=model, args=args, train_dataset=data, peft_config=lora(model))
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
        in_order=recipe.by_length,
        **recipe.objective,
    )
    rows = student_rows(recipe, seed)
    given: dict[str, Any] = {
        "label": {"teachers": {REFUSE: teacher, ANSWER: None}},
        "probe": {"teacher_model": {"soft_route": str(probe), REFUSE: teacher, ANSWER: None}},
        "sft": {"teacher_model": teacher},
        "none": {},
    }[recipe.teacher]
    trainer = ContrastiveRobustTrainer(
        model=model,
        args=args,
        train_dataset=rows if recipe.teacher == "label" else rows.remove_columns("teacher"),
        quantization_config=nf4(),
        peft_config=lora(model, recipe.untrained),
        **given,
    )
    if recipe.float32_adapter:
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    return trainer
