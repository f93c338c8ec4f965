# SPDX-License-Identifier: Apache-2.0
"""What `gpu.py` runs, in order of value, and the same list made small for a CPU."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from page import command_of

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Job:
    """
    One command that leaves one results file.

    Args:
        name (`str`):
            The results file's stem.
        what (`str`):
            One line on what it finds out.
        words (`tuple[str, ...]`):
            The command.
        estimate_s (`float`):
            About what it takes. It is not begun with less time left.
        limit_s (`float`):
            After so long it is ended.
        results (`Path`):
            The file that it writes.
        shares (`bool`):
            Leaves the card mostly idle, or measures no time: may run beside others of the kind.
        needs_smollm2 (`bool`):
            Trains SmolLM2, which has to be there.
    """

    name: str
    what: str
    words: tuple[str, ...]
    estimate_s: float
    limit_s: float
    results: Path
    shares: bool = False
    needs_smollm2: bool = False

    @property
    def command(self) -> str:
        """The command, to be run in a clone."""
        return shlex.join(["python", *self.words[1:]] if self.words[0] == sys.executable else self.words)


# All variants of a small model fit a card at a time; each group would load the baseline anew.
_ONE_GROUP = ("--group", "16")
# Of 8B, whose steps take seconds and hardly differ.
# Compiled, as a real run of such a model is, though these few steps would not repay it.
_FEW_STEPS = ("--warmup", "2", "--repeats", "3", "--group", "8", "--compile")
# Name, what it finds out, estimate, limit, further options, shares, needs SmolLM2. Estimates are guesses until the first run.
_LISTED: tuple[tuple[str, str, float, float, tuple[str, ...], bool, bool], ...] = (
    ("gpu_tests", "whether it works: the tests that need a GPU", 90, 180, (), True, False),
    ("objective_8b", "the losses alone at an 8B model's head", 75, 180, (), False, False),
    ("objective_1b", "the losses alone at a 1B model's head", 50, 120, (), False, False),
    ("step_8b", "whole steps of an 8B-shaped model in NF4", 120, 270, _FEW_STEPS, False, False),
    ("demo_cuda", "the demo from end to end", 150, 300, (), True, True),
    ("fit_check_24gb", "the longest row that fits 24 GB, beside the calculated one", 120, 270, (), True, False),
    ("step_bf16", "whole steps of SmolLM2 in bfloat16", 60, 180, _ONE_GROUP, False, True),
    ("step_nf4_checkpointing", "the same in NF4 with checkpointing", 60, 180, _ONE_GROUP, False, True),
    ("profile_8b", "where an 8B step's time and memory go", 75, 180, ("--compile",), False, False),
    ("step_noise_cuda", "what each perturbation costs", 60, 180, _ONE_GROUP, False, True),
    ("profile_smollm2", "where a small model's time goes", 40, 120, (), False, True),
    ("step_nf4_cuda", "whole steps of SmolLM2 in NF4", 60, 180, _ONE_GROUP, False, True),
    ("step_fp32_cuda", "whole steps of SmolLM2 in float32", 60, 180, _ONE_GROUP, False, True),
)


def gpu_jobs(results: Path, work: Path, model: str | None = None) -> list[Job]:
    """
    Returns the jobs for a GPU.

    Args:
        results (`Path`):
            Folder of the results files.
        work (`Path`):
            Folder for what jobs leave beside.
        model (`str`, *optional*):
            Folder of a model to take in place of SmolLM2.
    """
    jobs = []
    for name, what, estimate, limit, more, shares, needs_smollm2 in _LISTED:
        words = _words(name, results / f"{name}.json", model)
        if name == "demo_cuda":
            words += ("--output_dir", str(work / "demo"), *(("--model", model) if model else ()))
        job = Job(name, what, words + more, estimate, limit, results / f"{name}.json", shares, needs_smollm2)
        jobs.append(job)
    return jobs


def _words(name: str, path: Path, model: str | None) -> tuple[str, ...]:
    """The page's command, with this Python, to this file."""
    words = shlex.split(command_of(name))
    words[0], words[-1] = sys.executable, str(path)
    return tuple(model if word == "smollm2" and model else word for word in words)


# In place of the case's sizes.
_TINY_SHAPE = ("--layers", "2", "--shrink", "32", "--length", "32", "--batch-size", "2")
_TINY_ROWS = ("--length", "16", "--batch-size", "2")
_ONE_STEP = ("--warmup", "1", "--repeats", "1", "--no-compile")
_REHEARSED_VARIANTS = {
    "step_8b": ("sft", "hf_ckt_all", "hf_ckt_noise_adversarial"),
    "step_noise_cuda": ("sft", "hf_ckt_noise_typos"),
}
# The compiler takes a minute of a small CPU: once is enough.
_UNCOMPILED = ("--variants", "hf_ckt_plain", "dense", "trl", "floor")
_TINY_OBJECTIVE = ("--tokens", "12", "--hidden", "8", "--vocab", "40", "--repeats", "2", "--device", "cpu")
_TINY_DEMO = (
    "--teacher_steps",
    "2",
    "--student_steps",
    "2",
    "--prompts",
    "2",
    "--new_tokens",
    "4",
    "--batch_size",
    "2",
)


def rehearsal_jobs(results: Path, work: Path, model: str) -> list[Job]:
    """
    Returns the same jobs with the same scripts and options, of tiny sizes and few steps, on a CPU.

    Later options win, so the small sizes follow the real ones.

    Args:
        results (`Path`), work (`Path`):
            As of [`gpu_jobs`].
        model (`str`):
            Folder of a tiny model.
    """
    return [
        replace(job, words=job.words + _shrinking(job.name), estimate_s=20, limit_s=300, needs_smollm2=False)
        for job in gpu_jobs(results, work, model)
    ]


def _shrinking(name: str) -> tuple[str, ...]:
    if name == "gpu_tests":
        return ("--tests", "tests/gpu", "--marker", "not gpu and not slow", "--workers", "2")
    if name.startswith("objective"):
        return _TINY_OBJECTIVE + (_UNCOMPILED if name != "objective_8b" else ())
    if name == "fit_check_24gb":
        return ("--layers", "2", "--shrink", "32", "--memory-gb", "1.1", "--trials", "2")
    if name == "demo_cuda":
        return _TINY_DEMO
    shape = _TINY_SHAPE if name.endswith("8b") else _TINY_ROWS
    if name.startswith("profile"):
        return shape + ("--warmup", "1", "--no-compile")
    variants: Sequence[str] = _REHEARSED_VARIANTS.get(name, ("sft", "hf_ckt_all"))
    return (*shape, *_ONE_STEP, "--variants", *variants)
