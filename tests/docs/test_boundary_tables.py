# SPDX-License-Identifier: Apache-2.0
"""The table of docs/boundary.md is that of the results files."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tables():
    spec = importlib.util.spec_from_file_location("boundary_tables", ROOT / "docs" / "boundary_tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_table_of_the_page_is_written_from_the_results(tables):
    """Measured again, what was reached would stand beside the old numbers."""
    assert tables.page() == tables.PAGE.read_text(encoding="utf-8"), "run `python docs/boundary_tables.py`"


def test_every_aim_has_what_the_student_reached(tables):
    """An aim that was not measured would look like one that nobody missed."""
    rows = [line.split(" | ") for line in tables.table().splitlines()[2:]]
    student = 3 + [*tables.COLUMNS].index("student")
    assert len(rows) == len(tables.GOALS) and all(row[student].strip() for row in rows)
