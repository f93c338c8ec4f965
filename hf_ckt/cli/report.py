# SPDX-License-Identifier: Apache-2.0
"""Write the tables, plots and page of evaluations from their results files."""

from pathlib import Path

from .arguments.parser import CommandParser


def run(argv: list[str]) -> int:
    """Writes a report beside each evaluation, and says what was written."""
    parser = CommandParser(
        prog="hf-ckt report",
        description=f"{__doc__} It reads results.json, completions.parquet and lm_eval.json of each folder, and writes "
        "report.md, report.html and plots/ there. No model is loaded.",
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="written by `hf-ckt evaluate --output`")
    parser.add_argument("--no-plots", action="store_true", help="no PNG and SVG files, which need matplotlib")
    parser.add_argument(
        "--prompts", type=int, default=3000, metavar="N", help="prompts with answers in the page, default 3000"
    )
    parser.add_argument(
        "--readme",
        type=Path,
        metavar="FILE",
        help="write the headline scores of the one folder between the "
        "lines <!-- evaluation --> and <!-- /evaluation --> of this file, and nothing else; default: the report",
    )
    options = parser.parse_args(argv)

    from ..checkpoints import replace_block
    from ..checks import require_count
    from ..evaluation.report import read_findings, readme_block, write_report

    require_count("--prompts", options.prompts, 0, "The page would lack its last prompts.")
    if options.readme is not None:
        if len(options.folders) != 1:
            raise ValueError("--readme: takes one folder, since the file has one place for its table.")
        source = (options.folders[0] / "results.json").as_posix()
        replace_block(options.readme, "evaluation", readme_block(read_findings(options.folders[0]).results, source))
        print(options.readme)
        return 0
    for folder in options.folders:  # all before the first is written: a typing error should not be found minutes later
        read_findings(folder)
    for folder in options.folders:
        for path in write_report(folder, plots=not options.no_plots, most_prompts=options.prompts):
            print(path)
    return 0
