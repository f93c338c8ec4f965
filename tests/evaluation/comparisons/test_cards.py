# SPDX-License-Identifier: Apache-2.0
"""Cards and tables from results files."""

import json
from pathlib import Path

import pytest

from hf_ckt.hub.comparison_table import comparison_rows
from hf_ckt.hub.result_card import is_comparison, main, page_block, result_card, result_rows

ROOT = Path(__file__).parents[2]
RESULTS = sorted((ROOT / "examples" / "results").glob("*.json"))
OF_A_RUN = [file for file in RESULTS if not is_comparison(json.loads(file.read_text(encoding="utf-8")))]


@pytest.mark.parametrize("file", RESULTS, ids=lambda file: file.stem)
def test_page_and_card_hold_the_numbers_of_the_results_file(file):
    """A number typed by hand survives the run that disproves it."""
    results = json.loads(file.read_text(encoding="utf-8"))
    source = file.relative_to(ROOT).as_posix()
    pages = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")))
    assert f"<!-- {file.stem} -->\n{page_block(results, source)}\n<!-- /{file.stem} -->" in pages
    if is_comparison(results):
        return
    card = (ROOT / "model_cards" / f"{file.stem}.md").read_text(encoding="utf-8")
    for row in result_rows(results):
        assert all(str(cell) in card for cell in row.values())
    assert str(result_card(results, f"SmolLM2-135M-Instruct, {file.stem}")).strip() == card.strip()


def test_comparison_shows_each_method_with_its_own_numbers():
    """A column that reads the clean rate for the corrupted one would hide what the comparison is about."""
    cell = lambda value: {"mean": value, "low": value - 0.05, "high": value + 0.05}  # noqa: E731
    rate = lambda value: {"refused": value, "low": value - 0.1, "high": value + 0.1, "n": 8}  # noqa: E731
    model = {
        "title": "+ typos",
        "conditions": {"clean": {"harmful": rate(0.9), "lookalike": rate(0.3)}},
        "all corruptions": {
            "harmful": cell(0.8),
            "lookalike": cell(0.2),
            "flipped": cell(0.15),
            "token_consistency": cell(0.9512),
        },
    }
    assert list(comparison_rows({"models": {"typos": model}})[0].values()) == [
        "+ typos",
        "0.90 [0.80, 1.00]",
        "0.80 [0.75, 0.85]",
        "0.30 [0.20, 0.40]",
        "0.20 [0.15, 0.25]",
        "0.15 [0.10, 0.20]",
        "0.951 [0.901, 1.001]",
    ]


@pytest.mark.parametrize("file", OF_A_RUN, ids=lambda file: file.stem)
def test_results_file_is_of_one_whole_run(file):
    """The seconds of a resumed run are those of its last part."""
    assert json.loads(file.read_text(encoding="utf-8"))["resumed"] is False


@pytest.mark.parametrize("marked", [0, 2])
def test_table_without_one_place_for_it_is_refused(marked, tmp_path, monkeypatch):
    """Written nowhere, or on the first of two pages, a table would stay what it was and nobody would know."""
    pages = [tmp_path / "a.md", tmp_path / "b.md"]
    for number, page in enumerate(pages):
        page.write_text("<!-- quickstart -->\n<!-- /quickstart -->\n" if number < marked else "words\n")
    results = ROOT / "examples" / "results" / "quickstart.json"
    words = [str(results), "--cards", str(tmp_path), "--pages", *map(str, pages)]
    monkeypatch.setattr("sys.argv", ["result_card", *words])
    with pytest.raises(ValueError, match=f"^--pages: {marked} of them have the markers <!-- quickstart -->"):
        main()
