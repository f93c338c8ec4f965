# SPDX-License-Identifier: Apache-2.0
"""
Keeps what a study has found, and writes the tables and pictures of RESULTS.md from what is kept.

    python examples/studies/page.py --keep out/studies/main     # to results/main.json, then the page
    python examples/studies/page.py                             # the page alone
"""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from study_pictures import draw
from study_tables import BASE, choice_table, cost_table, difference_table, main_table, power_table

from hf_ckt.checkpoints import replace_block, replace_json

RESULTS, PAGE = HERE / "results", HERE / "RESULTS.md"
OF_EVALUATION = ("command", "tier", "generation", "judge", "sets", "versions", "device", "settings")


def keep(folder: Path, destination: Path) -> None:
    """
    Writes what is worth keeping of a study's folder into one file: each cell, and of the evaluation the scores by method, seeds
    pooled, with their differences.
    """
    study = _read(folder / "results.json")
    found = _read(folder / study["evaluation"])
    scored = found["models"] | (found.get("pooled") or {})
    # A method of one seed is a cell of its own.
    names = {group: group if group in scored else runs[0] for group, runs in study["groups"].items()}
    names = {BASE: BASE} | study.get("compared", {}) | names
    methods = {}
    for group, name in names.items():
        against = scored[name].get("against", {})
        methods[group] = {
            "scores": scored[name]["scores"],
            "against": {other: against[one] for other, one in names.items() if one in against},
        }
    kept = {
        "study": study["study"],
        "cells": study["cells"],
        "groups": study["groups"],
        "methods": methods,
        **{name: found[name] for name in OF_EVALUATION if name in found},
    }
    replace_json(destination, kept)


def write_page(page: Path = PAGE, results: Path = RESULTS) -> list[str]:
    """Writes the blocks that the page has marks for, and the pictures; returns the blocks' names."""
    if not page.exists():
        raise ValueError(
            f"{page}: is missing, and tables have no place. Write it, with marks such as `<!-- main -->`."
        )
    text = page.read_text(encoding="utf-8")
    written = []
    for file in sorted(results.glob("*.json")):
        kept = _read(file)
        blocks = {
            file.stem: main_table(kept),
            f"{file.stem} costs": cost_table(kept),
            f"{file.stem} power": power_table(kept),
        }
        if len(kept["study"]["grid"]) == 1:
            blocks[f"{file.stem} choice"] = choice_table(kept)
        for method in kept["methods"]:
            blocks[f"{file.stem} {method} minus"] = difference_table(kept, method)
        for name, block in blocks.items():
            if f"<!-- {name} -->" in text:
                replace_block(page, name, block)
                written.append(name)
        draw(kept, file.with_suffix(".png"))
    marks = set(re.findall(r"<!-- ([^/].*?) -->", text))
    if marks - {*written}:
        raise ValueError(
            f"{page.name}: nothing is kept for {', '.join(sorted(marks - {*written}))}. Run that study first."
        )
    return written


def _read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, nargs="+", default=[], metavar="FOLDER", help="of `hf-ckt study`")
    for folder in parser.parse_args().keep:
        keep(folder, RESULTS / f"{folder.name}.json")
    for name in write_page():
        print(name)


if __name__ == "__main__":
    main()
