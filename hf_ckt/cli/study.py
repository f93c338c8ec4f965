# SPDX-License-Identifier: Apache-2.0
"""Train and evaluate a grid of methods, settings and seeds from a YAML file, and compare them."""

from pathlib import Path

from . import evaluate
from .arguments.parser import CommandParser
from .arguments.run_file import read_run_file


def run(argv: list[str]) -> int:
    """Runs the study, or with `--dry-run` says what it would run."""
    parser = CommandParser(
        prog="hf-ckt study",
        description=f"{__doc__} If it is stopped, the same command goes on where it stopped.",
    )
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="see docs/studies.md")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="where everything is kept; default: out/studies and the file's name"
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="cells side by side; default: 1")
    parser.add_argument(
        "--dry-run", action="store_true", help="list the cells and the time that is left, and run nothing"
    )
    options = parser.parse_args(argv)

    from ..checks import require_count, require_known
    from ..study.plan import Study
    from ..study.running import plan_lines, run_study

    require_count("--jobs", options.jobs, 1, "With none nothing is run.")
    study = Study.of(read_run_file(options.config))
    known = [option.removeprefix("--").replace("-", "_") for option in evaluate.option_names()]
    for name in study.evaluate:
        require_known("evaluate", name, known)
    folder = options.output or Path("out/studies") / options.config.stem
    if options.dry_run:
        print("\n".join(plan_lines(study, folder, options.jobs)))
        return 0
    run_study(study, folder, options.jobs, options.config)
    print(f"{folder} holds results.json and evaluation/; `hf-ckt report {folder / 'evaluation'}` draws it.")
    return 0
