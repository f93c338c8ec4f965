# SPDX-License-Identifier: Apache-2.0
"""The table of docs/boundary.md is that of the results files."""

from pathlib import Path

import pytest

from tests.scripts import load_script

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tables():
    return load_script(ROOT / "docs" / "boundary_tables.py")


def test_table_of_the_page_is_written_from_the_results(tables):
    """Measured again, what was reached would stand beside the old numbers."""
    written = f"<!-- {tables.NAME} -->\n{tables.table()}\n<!-- /{tables.NAME} -->"
    assert tables.PAGE.read_text(encoding="utf-8").count(written) == 1, "run `python docs/boundary_tables.py`"


def test_every_aim_has_what_the_student_reached(tables):
    """An aim that was not measured would look like one that nobody missed."""
    rows = [line.split(" | ") for line in tables.table().splitlines()[2:]]
    student = 3 + [*tables.COLUMNS].index("student")
    assert len(rows) == len(tables.GOALS) and all(row[student].strip() for row in rows)
