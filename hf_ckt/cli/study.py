# SPDX-License-Identifier: Apache-2.0
"""Train and evaluate a grid of methods, settings and seeds from a YAML file, and compare them."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import evaluate
from .arguments.parser import CommandParser
from .arguments.run_file import read_run_file

if TYPE_CHECKING:
    from ..study.plan import Study

EXTENDS = "extends"


def run(argv: list[str]) -> int:
    """Runs the study, or with `--dry-run` says what it would run."""
    parser = CommandParser(
        prog="hf-ckt study",
        description=f"{__doc__} If it is stopped, the same command goes on where it stopped.",
    )
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="see docs/studies.md")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="where everything is kept; default: out/studies and the file's name, with the tier",
    )
    parser.add_argument(
        "--tier", metavar="NAME", help="entries under `tiers` that are put over the file's own; default: none"
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="cells side by side; default: 1")
    parser.add_argument(
        "--dry-run", action="store_true", help="list the cells and the time that is left, and run nothing"
    )
    options = parser.parse_args(argv)

    from ..checks import require_count, require_known
    from ..study.running import plan_lines, run_study

    require_count("--jobs", options.jobs, 1, "With none nothing is run.")
    study = read_study(options.config, options.tier)
    known = [option.removeprefix("--").replace("-", "_") for option in evaluate.option_names()]
    for name in study.evaluate:
        require_known("evaluate", name, known)
    name = options.config.stem if options.tier is None else f"{options.config.stem}-{options.tier}"
    folder = options.output or Path("out/studies") / name
    if options.dry_run:
        print("\n".join(plan_lines(study, folder, options.jobs)))
        return 0
    run_study(study, folder, options.jobs, options.config, options.tier)
    print(f"{folder} holds results.json and evaluation/; `hf-ckt report {folder / 'evaluation'}` draws it.")
    return 0


def read_study(file: Path, tier: str | None = None) -> "Study":
    """
    Reads a study's file, or one of its tiers; what it lacks is in the file that it `extends`, if it names one.

    Raises:
        FileNotFoundError: If one of them is missing.
        ValueError: If an entry is wrong, or files extend each other in a circle.
    """
    from ..study.plan import Study

    return Study.of(_entries(file, ()), tier)


def _entries(file: Path, before: tuple[Path, ...]) -> dict[str, Any]:
    from ..study.entries import over, spelled

    variables = {**os.environ}
    entries = read_run_file(file)
    if before and variables != {**os.environ}:
        raise ValueError(
            f"{EXTENDS}: {file.name} sets variables by `env`, after {before[-1].name} has read its own. Set them there."
        )
    other = entries.pop(EXTENDS, None)
    if other is None:
        return spelled(entries)
    seen = (*before, file.resolve())
    extended = (file.parent / str(other)).resolve()
    if extended in seen:
        raise ValueError(
            f"{EXTENDS}: {file.name} and {extended.name} extend each other, so neither ends anywhere. Drop one."
        )
    if not extended.is_file():
        raise FileNotFoundError(f"{EXTENDS}: {file.name} names {other!r}, and there is no such file beside it.")
    return over(_entries(extended, seen), spelled(entries))
