# SPDX-License-Identifier: Apache-2.0
"""The measured coverage of intervals: that it runs, what it found, and that the page shows it."""

import json
import re
import sys
from pathlib import Path

import pytest

from hf_ckt.evaluation.scoring.scores import SCORES
from tests.scripts import load_script

ROOT = Path(__file__).parents[2]
FOLDER, PAGE = ROOT / "examples" / "evaluation", ROOT / "docs" / "scores.md"
RESULTS = json.loads((FOLDER / "coverage.json").read_text(encoding="utf-8"))


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    module = load_script(FOLDER / "coverage.py")
    yield module
    sys.modules.pop("simulated", None)


def test_coverage_script_measures_and_writes_its_page(script, tmp_path):
    """A script that only its author ran is found broken when the numbers are questioned."""
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- coverage -->\nold\n<!-- /coverage -->\nafter\n", encoding="utf-8")
    found = tmp_path / "out.json"
    script.main(["--times", "3", "--only", "multiple_choice", "--json", str(found), "--page", str(page)])
    cases = json.loads(found.read_text(encoding="utf-8"))["cases"]
    assert [one["times"] for one in cases] == [3] * 4 and all(0 <= one["coverage"] <= 1 for one in cases)
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text and "100 questions" in text


@pytest.mark.parametrize("given", [[], ["--json", "out.json"], ["--page", ""]])
def test_coverage_of_some_scores_does_not_take_the_place_of_all(given, script, tmp_path, monkeypatch, capsys):
    """The lines that are missing afterwards are those of scores whose intervals nobody looks at."""
    monkeypatch.setattr(script, "HERE", tmp_path / "examples" / "evaluation")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        script.main(["--times", "1", "--only", "multiple_choice", *given])
    assert "--only: a part of the scores" in capsys.readouterr().err and not list(tmp_path.rglob("*.json"))


def test_committed_coverage_is_of_every_case_that_the_script_has(script):
    """A case that is left out because it covers badly is the one that a reader needs."""
    keys = [(line.score, case.size, line.setting) for case in script.cases() for line in case.lines]
    assert keys == [(one["score"], one["size"], one["setting"]) for one in RESULTS["cases"]]


def test_intervals_cover_what_they_claim():
    """An interval that is right four times in five is quoted as if it were nineteen in twenty."""
    shares = [(one["coverage"], one["times"]) for one in RESULTS["cases"]]
    mean = sum(share * times for share, times in shares) / sum(times for _, times in shares)
    assert 0.94 <= mean <= 0.975
    for one in RESULTS["cases"]:
        # Below by no more than three standard deviations of so many evaluations of a true 94 %.
        assert one["coverage"] >= 0.94 - 3 * (0.94 * 0.06 / one["times"]) ** 0.5, one


def test_page_shows_the_committed_coverage(script):
    """A table that is written by hand is that of the day before."""
    shown = re.search(r"<!-- coverage -->\n(.*?)\n<!-- /coverage -->", PAGE.read_text(encoding="utf-8"), re.S)
    assert shown is not None and shown[1] == script.table(RESULTS)


def test_page_defines_every_score_with_its_chance_value():
    """A number whose chance value nobody wrote down is read as if that were 0."""
    rows = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `") and len(cells) == 4:
            for name in re.findall(r"`(\w+)`", cells[0]):
                rows[name] = cells
    assert rows.keys() == SCORES.keys()
    for name, nature in SCORES.items():
        _, formula, span, chance = rows[name]
        assert formula and span and chance
        if nature.chance is not None:
            assert re.search(rf"\b{nature.chance:g}\b", chance), name
        if nature.low is not None and nature.high is not None:
            assert span == f"{nature.low:g} to {nature.high:g}", name
