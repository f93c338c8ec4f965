# SPDX-License-Identifier: Apache-2.0
"""Before training: how often what the teacher alone reads changes what it says on the data."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..checkpoints import replace_json
from ..checks import require_count
from .arguments.parser import CommandParser


def run(argv: list[str]) -> int:
    """Builds the run's trainer, compares its teachers with and without their contexts, and prints a table for each."""
    parser = CommandParser(
        prog="hf-ckt teacher-check",
        description=f"{__doc__} Besides the options below, all of `hf-ckt train` are taken, with the same run file.",
    )
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="YAML file of the run")
    parser.add_argument(
        "--rows",
        type=int,
        default=100,
        help="rows of the training data that are read, evenly spaced (default: %(default)s)",
    )
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="the numbers, as a file")
    options, others = parser.parse_known_args(argv)
    require_count("--rows", options.rows, 1, "Without a row there is nothing to compare.")

    from .train import with_trainer

    def evaluates_nothing(args: Any, _: Any) -> None:
        args.eval_strategy = "no"

    def check(trainer: Any) -> None:
        from ..training.context_effect import context_effects

        effects = context_effects(trainer, options.rows)
        trainer.accelerator.print("\n\n".join(effect.as_text(name) for name, effect in effects.items()))
        if options.json is not None and trainer.accelerator.is_main_process:
            replace_json(options.json, {name: asdict(effect) for name, effect in effects.items()}, indent=2)

    with_trainer(["--config", str(options.config), *others], check, evaluates_nothing)
    return 0
