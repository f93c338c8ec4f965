# SPDX-License-Identifier: Apache-2.0
"""Writes the table of `teachers.md` from `examples/results/teachers.json`: `python docs/teacher_table.py`."""

import importlib.util
import json
from pathlib import Path
from typing import Any

PAGE = Path(__file__).with_name("teachers.md")
ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "examples" / "results" / "teachers.json"
START, END = "<!-- teachers -->\n", "<!-- /teachers -->"


def table() -> str:
    """Returns the table, and under it what was measured on what."""
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    spec: Any = importlib.util.spec_from_file_location("teachers_example", ROOT / "examples" / "teachers.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    steps = results["measured"][0]["steps"]
    return (
        f"{example.table(results['measured'])}\n\n`python examples/teachers.py`, {results['cores']} CPU cores, "
        f"{results['dtype']}, {steps} steps each, one run each in a process of its own, so that small "
        f"differences in time are chance. {versions}. From `examples/results/teachers.json`.\n"
    )


def page() -> str:
    """Returns the page with its table written anew."""
    before, rest = PAGE.read_text(encoding="utf-8").split(START)
    return f"{before}{START}{table()}{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
