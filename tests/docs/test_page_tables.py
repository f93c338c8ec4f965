# SPDX-License-Identifier: Apache-2.0
"""The tables of docs/boundary.md are those of the results files."""

from pathlib import Path

import pytest

from tests.scripts import load_script

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tables():
    return load_script(ROOT / "docs" / "boundary_tables.py")


@pytest.mark.parametrize("name", ["goals", "ablation"])
def test_table_of_the_page_is_written_from_the_results(tables, name):
    """Measured again, what was reached would stand beside the old numbers."""
    written = f"<!-- {name} -->\n{tables.BLOCKS[name]()}\n<!-- /{name} -->"
    assert tables.PAGE.read_text(encoding="utf-8").count(written) == 1, "run `python docs/boundary_tables.py`"


def test_every_aim_has_what_the_student_reached(tables):
    """An aim that was not measured would look like one that nobody missed."""
    rows = [line.split(" | ") for line in tables.goals().splitlines()[2:]]
    student = 3 + [*tables.COLUMNS].index("student")
    assert len(rows) == len(tables.GOALS) and all(row[student].strip() for row in rows)
