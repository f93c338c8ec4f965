# SPDX-License-Identifier: Apache-2.0
"""The table of docs/teachers.md is that of the results file."""

from pathlib import Path

from hf_ckt.discovery import part_names
from tests.scripts import load_script

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "teachers.md").read_text(encoding="utf-8")


def test_table_of_the_page_is_written_from_the_results():
    """Measured again, the kinds would stand beside their old numbers."""
    module = load_script(ROOT / "docs" / "teacher_table.py")
    assert module.page() == PAGE, "run `python docs/teacher_table.py`"


def test_page_names_every_teacher_and_no_other():
    """A kind that nobody reads of is not used."""
    first = PAGE.split("|---|---|---|---|\n")[1].split("\n\n")[0]
    assert sorted(line.split("`")[1] for line in first.splitlines()) == part_names("teachers")
