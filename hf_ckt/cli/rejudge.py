# SPDX-License-Identifier: Apache-2.0
"""Judge the kept answers of evaluations again, by another judge or a newer one, without answering again."""

from pathlib import Path

from .arguments.models import JUDGE_HELP, require_judge
from .arguments.parser import CommandParser


def run(argv: list[str]) -> int:
    """Judges each folder, writes its scores, and prints the headline table."""
    parser = CommandParser(
        prog="hf-ckt rejudge",
        description=f"{__doc__} It reads results.json and completions.parquet of each folder and writes both anew. Scores that "
        "need no verdict stay as they are. `hf-ckt report` draws the new ones.",
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="written by `hf-ckt evaluate --output`")
    parser.add_argument("--judge", default="auto", metavar="NAME", help=JUDGE_HELP)
    parser.add_argument(
        "--trust-remote-code", action="store_true", help="run Python code that comes with a judge that is a model"
    )
    options = parser.parse_args(argv)
    require_judge(options.judge)

    from ..evaluation.measuring.models import public_command
    from ..evaluation.rejudge import rejudge
    from ..evaluation.report.tables import headline_table

    for folder in options.folders:
        command = public_command("hf-ckt rejudge", ["--judge", options.judge])
        results = rejudge(folder, options.judge, trust_remote_code=options.trust_remote_code, command=command)
        print(f"{folder}: judged by {results['judge']['name']}\n\n{headline_table(results)}\n")
    return 0
