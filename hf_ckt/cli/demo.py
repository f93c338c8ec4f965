# SPDX-License-Identifier: Apache-2.0
"""Align SmolLM2-135M-Instruct from end to end and show what it refuses and answers before and after."""

import argparse
import os
from pathlib import Path

from ..checks import require_count
from .arguments.parser import CommandParser

STAGES = """
It trains an instruct model over a frozen 4-bit backbone to refuse harmful prompts and go on answering their benign twins.

1. What the base knows: a probe of its middle layers, fitted on the boundary set.
2. A teacher of refusals: LoRA on SmolLM2-135M-Instruct, fine-tuned on refusals alone.
3. A student: LoRA on the same model in NF4. On prompts labelled harmful it learns from the teacher of refusals, on all others
   from its own frozen base; it reads them clean, with typing errors and within frames, its teachers always clean.
4. Held-out prompts, harmful ones and a benign twin of each, clean and with typing errors: the base before, the student after,
   and the two teachers, between which the probe chooses. Scored by the answers (J) and by the log-odds of beginning a refusal
   (AUROC). Refusing everything gains nothing. Questions and plain text show whether ability was lost.

Stopped at any moment, the same command goes on where it was.
"""


def run(argv: list[str]) -> int:
    """Runs the demo, or goes on with it."""
    parser = CommandParser(
        prog="hf-ckt demo",
        description=f"{__doc__}\n{STAGES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", default=None, help="Hub id or folder; default: SmolLM2-135M-Instruct")
    parser.add_argument("--output-dir", type=Path, default=Path("out/quickstart"), help="where results go")
    parser.add_argument("--teacher-steps", type=int, help="of the teacher of refusals; default: the recipe's")
    parser.add_argument("--student-steps", type=int, help="of the student; default: the recipe's")
    parser.add_argument("--batch-size", type=int, help="rows in a step of the student; default: the recipe's")
    parser.add_argument("--prompts", type=int, default=64, help="held-out prompts of each kind, evenly spaced")
    parser.add_argument("--new-tokens", type=int, default=32, help="at most so many in an answer")
    parser.add_argument("--seed", type=int, default=0, help="of both trainings and of the typing errors")
    parser.add_argument("--restart", action="store_true", help="forget what the output folder holds")
    options = parser.parse_args(argv)
    for name in ("teacher_steps", "student_steps", "batch_size", "prompts", "new_tokens"):
        if getattr(options, name) is not None:
            # Trainer takes 0 steps for whole epochs; the others would fail behind the first training.
            require_count(f"--{name.replace('_', '-')}", getattr(options, name), 1, "Of none nothing comes.")

    # TRL's trainers send usage data; a demo should not. Read when the Hub's client is imported, so it comes first.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from ..demo.recipe import Recipe
    from ..demo.running import run_demo

    for name in ("teacher_steps", "student_steps", "batch_size"):
        if getattr(options, name) is None:
            setattr(options, name, getattr(Recipe, name))
    run_demo(options)
    return 0
