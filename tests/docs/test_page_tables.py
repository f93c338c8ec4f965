# SPDX-License-Identifier: Apache-2.0
"""The tables of the pages are those that their scripts write from the results files."""

from pathlib import Path

import pytest

from tests.scripts import load_script

DOCS = Path(__file__).parents[2] / "docs"
SCRIPTS = ("boundary_tables", "judge_tables", "teacher_table")
LOADED = {name: load_script(DOCS / f"{name}.py") for name in SCRIPTS}
BLOCKS = [(name, block) for name, script in LOADED.items() for block in script.BLOCKS]


@pytest.mark.parametrize(("script", "name"), BLOCKS)
def test_table_of_a_page_is_written_from_the_results(script, name):
    """Measured again, what was reached would stand beside the old numbers."""
    module = LOADED[script]
    written = f"<!-- {name} -->\n{module.BLOCKS[name]()}\n<!-- /{name} -->"
    assert module.PAGE.read_text(encoding="utf-8").count(written) == 1, f"run `python docs/{script}.py`"


def test_every_aim_has_what_the_student_reached():
    """An aim that was not measured would look like one that nobody missed."""
    boundary = LOADED["boundary_tables"]
    rows = [line.split(" | ") for line in boundary.goals().splitlines()[2:]]
    student = 3 + [*boundary.COLUMNS].index("student")
    assert len(rows) == len(boundary.GOALS) and all(row[student].strip() for row in rows)
