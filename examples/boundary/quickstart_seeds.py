# SPDX-License-Identifier: Apache-2.0
"""
Runs the demo with several seeds, and writes each score's mean over them.

    python examples/boundary/quickstart_seeds.py --output-dir out/quickstart_seeds --seeds 0 1 2

Other options are handed to `hf-ckt demo`. Stopped at any moment, the same command goes on where it was; a seed that is done is
not run again.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from rich.console import Console
from rich.table import Table

from hf_ckt.checkpoints import replace_json
from hf_ckt.cli.arguments.parser import CommandParser

SHOWN = (
    *("youden_j", "safety", "helpfulness", "overrefusal", "youden_j_noise"),
    *("refusal_auroc", "refusal_auroc_noise", "probe_auroc", "probe_auroc_noise"),
    *("multiple_choice_over_chance", "plain_text_nats"),
)


def parse_options() -> tuple[argparse.Namespace, list[str]]:
    """The options of this script, and those for `hf-ckt demo`."""
    parser = CommandParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--output-dir", type=Path, default=Path("out/quickstart_seeds"))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    options, others = parser.parse_known_args()
    if len({*options.seeds}) < len(options.seeds):
        parser.error("--seeds: each may be there once, or a run would count twice.")
    if any(other.split("=")[0] in ("--seed", "--output-dir", "--output_dir") for other in others):
        parser.error("--seed: each run has its own, one of --seeds. Leave it out.")
    return options, others


def run_of(seed: int, folder: Path, others: Sequence[str]) -> dict[str, Any]:
    """The results of one seed: those of an earlier run with the same options, or of one made now."""
    results, asked = folder / "results.json", folder / "options.json"
    if not (results.exists() and asked.exists() and json.loads(asked.read_text(encoding="utf-8")) == [*others]):
        demo = [sys.executable, "-m", "hf_ckt.cli.main", "demo"]
        done = subprocess.run([*demo, *others, "--output-dir", str(folder), "--seed", str(seed)], check=False)
        if done.returncode:
            sys.exit(
                f"hf-ckt demo failed with seed {seed}, for the reason above. Remove the cause and give the same command again."
            )
        replace_json(asked, [*others])
    return json.loads(results.read_text(encoding="utf-8"))


def over_seeds(runs: Sequence[Mapping[str, Any]], field: str) -> dict[str, Any]:
    """Of each score that all runs have, its values and their mean; `field` is what of a score is taken."""
    values = {score: [run.get(score, {}).get(field) for run in runs] for score in SHOWN}
    return {score: {"mean": mean(one), "values": one} for score, one in values.items() if None not in one}


def main() -> None:
    options, others = parse_options()
    runs = [run_of(seed, options.output_dir / f"seed-{seed}", others) for seed in options.seeds]
    models = [*runs[0]["models"]]
    copied = ("device", "versions", "base_model", "base_weights", "generation", "compared_with", "judge")
    results = {
        "command": "python examples/boundary/quickstart_seeds.py",
        "settings": {**runs[0]["settings"], "seed": options.seeds},
        "seconds": [run["seconds"] for run in runs],
        "resumed": [run["resumed"] for run in runs],
        **{name: runs[0][name] for name in copied},
        "scores": {name: over_seeds([run["models"][name]["scores"] for run in runs], "value") for name in models},
        "differences": {
            f"{name} minus {other}": over_seeds(
                [run["models"][name]["against"].get(other, {}) for run in runs], "difference"
            )
            for name in models
            for other in models[: models.index(name)]
        },
    }
    replace_json(options.output_dir / "results.json", results)
    show(results)


def show(results: Mapping[str, Any]) -> None:
    seeds, scores = results["settings"]["seed"], results["scores"]
    table = Table(title=f"Held-out prompts, mean over {len(seeds)} seeds, and each seed")
    for column in ("", *scores):
        table.add_column(column, justify="right" if column else "left")
    for score in SHOWN:
        cells = [model.get(score) for model in scores.values()]
        if any(cells):
            table.add_row(score, *(f"{one['mean']:.2f} ({shown(one['values'])})" if one else "" for one in cells))
    Console(width=150).print(table)


def shown(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.2f}" for value in values)


if __name__ == "__main__":
    main()
