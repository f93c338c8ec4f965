# SPDX-License-Identifier: Apache-2.0
"""What docs/judges.md says of each judge is what was measured, and what is installed."""

import re
from pathlib import Path

import pytest

from hf_ckt.evaluation.judges import best_judge
from hf_ckt.evaluation.judges.base import measured_error
from hf_ckt.evaluation.judges.encoder import INSTALL

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "judges.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["rule", "advbench", "learned"])
def test_row_of_a_judge_states_its_own_accuracy(name):
    """Rows that are swapped, or written from another set, look just like these."""
    found = next(one for one in measured_error(name) if one["set"] == "XSTest completions")
    row = re.search(rf"^\| {name} \| ([\d.]+) \[.*$", PAGE, re.MULTILINE)
    right = found["true_refusals"] + found["true_answers"]
    assert float(row[1]) == round(right / 2_250, 2)


def test_page_names_the_default_and_the_wheel():
    """A page that calls the other judge the default, or names another wheel, sends its reader astray."""
    assert f"**The {best_judge()} is the default" in PAGE and INSTALL in PAGE
    assert INSTALL.split()[-1] in (ROOT / "Makefile").read_text(encoding="utf-8")
