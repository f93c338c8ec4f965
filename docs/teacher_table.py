# SPDX-License-Identifier: Apache-2.0
"""Writes the table of `teachers.md` from `examples/results/teachers.json`: `python docs/teacher_table.py`."""

import importlib.util
import json
from pathlib import Path
from typing import Any

from hf_ckt.checkpoints import replace_block

PAGE = Path(__file__).with_name("teachers.md")
ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "examples" / "results" / "teachers.json"


def teachers() -> str:
    """The table, and under it what was measured on what."""
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    spec: Any = importlib.util.spec_from_file_location("teachers_example", ROOT / "examples" / "04_teachers.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    steps = results["measured"][0]["steps"]
    return (
        f"{example.table(results['measured'])}\n\n`python examples/04_teachers.py`, {results['cores']} CPU cores, "
        f"{results['dtype']}, {steps} steps each, one run each in a process of its own, so that small "
        f"differences in time are chance. {versions}. From `examples/results/teachers.json`."
    )


# By the name of its markers on the page.
BLOCKS = {"teachers": teachers}

if __name__ == "__main__":
    for name, block in BLOCKS.items():
        replace_block(PAGE, name, block())
