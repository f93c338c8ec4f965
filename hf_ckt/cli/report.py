# SPDX-License-Identifier: Apache-2.0
"""Write the tables, plots and page of evaluations from their results files."""

import argparse
from pathlib import Path


def run(argv: list[str]) -> int:
    """Writes a report beside each evaluation, and says what was written."""
    parser = argparse.ArgumentParser(
        prog="hf-ckt report",
        description=f"{__doc__} It reads results.json, completions.parquet and lm_eval.json of each folder, and writes "
        "report.md, report.html and plots/ there. No model is loaded.",
        allow_abbrev=False,
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="written by `hf-ckt evaluate --output`")
    parser.add_argument("--no-plots", action="store_true", help="no PNG and SVG files, which need matplotlib")
    parser.add_argument(
        "--prompts", type=int, default=3000, metavar="N", help="prompts with answers in the page, default 3000"
    )
    options = parser.parse_args(argv)

    from ..checks import require_count
    from ..evaluation.report import read_findings, write_report

    require_count("--prompts", options.prompts, 0, "The page would lack its last prompts.")
    for folder in options.folders:
        read_findings(
            folder
        )  # all before the first is written: a typing error in the last should not come after minutes
    for folder in options.folders:
        for path in write_report(folder, plots=not options.no_plots, most_prompts=options.prompts):
            print(path)
    return 0
