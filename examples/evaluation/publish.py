# SPDX-License-Identifier: Apache-2.0
"""
Copies an evaluation without the prompts of public sets, which are not this repository's to hand on.

    python examples/evaluation/publish.py out/cpu examples/results/evaluation

What is left in `completions.parquet` are names of prompts, answers, verdicts and measurements: enough to judge the answers anew
with `hf-ckt rejudge`, by judges that read the answer alone.
"""

import argparse
from pathlib import Path

from hf_ckt.checkpoints import replace_json
from hf_ckt.evaluation.measuring.store import file_digest
from hf_ckt.evaluation.report import read_findings
from hf_ckt.evaluation.results import write_completions


def publish(folder: Path, destination: Path) -> None:
    """Writes `results.json` and `completions.parquet` of a folder anew into another one, without prompts and thoughts."""
    findings = read_findings(folder)
    if not findings.rows:
        raise ValueError(f"{folder}: holds no completions.parquet, so there are no answers to keep. Evaluate again.")
    destination.mkdir(parents=True, exist_ok=True)
    rows = [row | {"request": "", "prompt": "", "reasoning": None} for row in findings.rows]
    write_completions(destination / "completions.parquet", rows)
    digest = file_digest(destination / "completions.parquet")
    replace_json(destination / "results.json", findings.results | {"completions": digest})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="written by `hf-ckt evaluate --output`")
    parser.add_argument("destination", type=Path, help="made if missing")
    options = parser.parse_args()
    publish(options.folder, options.destination)
