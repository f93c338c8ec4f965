# SPDX-License-Identifier: Apache-2.0
"""The table of docs/teachers.md is that of the results file."""

import importlib.util
from pathlib import Path

from hf_ckt.discovery import part_names

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "teachers.md").read_text(encoding="utf-8")


def test_table_of_the_page_is_written_from_the_results():
    """Measured again, the kinds would stand beside their old numbers."""
    spec = importlib.util.spec_from_file_location("teacher_table", ROOT / "docs" / "teacher_table.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.page() == PAGE, "run `python docs/teacher_table.py`"


def test_page_names_every_teacher_and_no_other():
    """A kind that nobody reads of is not used."""
    first = PAGE.split("|---|---|---|---|\n")[1].split("\n\n")[0]
    assert sorted(line.split("`")[1] for line in first.splitlines()) == part_names("teachers")
