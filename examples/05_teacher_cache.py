# SPDX-License-Identifier: Apache-2.0
# /// script
# requires-python = ">=3.11"
# dependencies = ["hf-ckt"]
#
# [tool.uv.sources]
# hf-ckt = { path = "..", editable = true }
# ///
"""
A teacher that runs once: what it says of the training rows is kept on disk, and the training reads it from there.

The teacher is the student's own frozen base, told by a system prompt that the student does not see to refuse what could hurt
someone. The same rows are trained on twice, with the teacher in each step and from the cache. With a larger teacher than
this one the cache saves more: none of it is in memory then.

    python examples/05_teacher_cache.py

Expected output, after the lines of both trainings (the seconds are those of a machine that had much else to do; most of what is
on disk is the head, which is there once):

    1,185 answer tokens of 32 rows kept in 3 s, 58.0 MB on disk
    teacher         s a step  first loss   last loss
    in each step        1.37      0.1448      0.0547
    from disk           1.15      0.1448      0.0547
    largest difference of a step's loss: 0 nats

Time and memory: 32 s of processor time on one core, 1.8 GB.
"""

import argparse
import os
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # TRL's trainers send usage data; an example should not

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import TrainerCallback

from hf_ckt import ContrastiveRobustConfig, ContrastiveRobustTrainer, LineProgressCallback
from hf_ckt.checks import require_count
from hf_ckt.cli.arguments.parser import CommandParser
from hf_ckt.cli.main import run_guarded
from hf_ckt.data import load_starter_set, to_prompt_completion
from hf_ckt.models.embedded import embedded_model, native_dtype
from hf_ckt.training.teacher_cache import cache_teachers

CONTEXT = "You are a helpful assistant. Refuse, in one sentence, whatever could hurt someone, and answer all else."


def build_trainer(options: argparse.Namespace, folder: Path, rows: Dataset, **fields: Any) -> ContrastiveRobustTrainer:
    """A student that learns from its teacher alone, on rows in a fixed order."""
    args = ContrastiveRobustConfig(
        str(folder),
        max_steps=options.steps,
        per_device_train_batch_size=options.batch_size,
        learning_rate=1e-3,
        train_sampling_strategy="sequential",
        distillation_weight=1.0,
        gradient_checkpointing=False,
        bf16=native_dtype() == "bfloat16",
        use_cpu=not torch.cuda.is_available(),
        logging_steps=1,
        save_strategy="no",
        model_init_kwargs={"dtype": native_dtype()},
        **dict.fromkeys(("task_weight", "contrastive_weight", "consistency_weight", "regularization_weight"), 0.0),
        **fields,
    )
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear")
    return ContrastiveRobustTrainer(options.model or embedded_model(), args, train_dataset=rows, peft_config=lora)


class Clock(TrainerCallback):
    """When each step ended."""

    def __init__(self) -> None:
        self.ended: list[float] = []

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.ended.append(time.perf_counter())


def trained(trainer: ContrastiveRobustTrainer, title: str) -> tuple[float, list[float]]:
    """The median of the steps' seconds but for the first, and the distillation loss of each."""
    clock = Clock()
    trainer.add_callback(clock)
    trainer.add_callback(LineProgressCallback(title))
    trainer.train()
    seconds = median(after - before for before, after in pairwise(clock.ended))
    return seconds, [one["distillation_loss"] for one in trainer.state.log_history if "distillation_loss" in one]


def main() -> None:
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=None, help="Hub id or folder; default: SmolLM2-135M-Instruct")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=4)
    options = parser.parse_args()
    require_count("--steps", options.steps, 2, "A step's time is that between the ends of two.")
    rows = load_starter_set("train").shuffle(seed=0).select(range(options.steps * options.batch_size))
    rows = to_prompt_completion(rows)

    runs = {}
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder, "cache")
        trainer = build_trainer(options, Path(folder, "live"), rows, teacher_system_prompt=CONTEXT)
        begun = time.perf_counter()
        index = cache_teachers(trainer, kept, say=lambda line: None)
        filling = time.perf_counter() - begun
        size = sum(file.stat().st_size for file in kept.rglob("*") if file.is_file())
        runs["in each step"] = trained(trainer, "teacher in each step")
        trainer = build_trainer(options, Path(folder, "cached"), rows, teacher_cache=str(kept))
        runs["from disk"] = trained(trainer, "teacher from disk")

    print(
        f"\n{index['positions']:,} answer tokens of {len(rows)} rows kept in {filling:.0f} s, {size / 1e6:.1f} MB on disk"
    )
    print(f"{'teacher':<14}{'s a step':>10}{'first loss':>12}{'last loss':>12}")
    for name, (seconds, losses) in runs.items():
        print(f"{name:<14}{seconds:>10.2f}{losses[0]:>12.4f}{losses[-1]:>12.4f}")
    apart = max(abs(one - other) for one, other in zip(*(losses for _, losses in runs.values()), strict=True))
    print(f"largest difference of a step's loss: {apart:.1g} nats")


if __name__ == "__main__":
    sys.exit(run_guarded("05_teacher_cache.py", main))
