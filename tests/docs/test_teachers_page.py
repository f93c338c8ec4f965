# SPDX-License-Identifier: Apache-2.0
"""docs/teachers.md names every kind of teacher."""

from pathlib import Path

from hf_ckt.discovery import part_names

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "teachers.md").read_text(encoding="utf-8")


def test_page_names_every_teacher_and_no_other():
    """A kind that nobody reads of is not used."""
    first = PAGE.split("|---|---|---|---|\n")[1].split("\n\n")[0]
    assert sorted(line.split("`")[1] for line in first.splitlines()) == part_names("teachers")
