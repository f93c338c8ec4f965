# SPDX-License-Identifier: Apache-2.0
"""Cards and tables from results files."""

import copy
import json
from pathlib import Path

import pytest

from hf_ckt.evaluation.comparisons import cards, kept_answers
from hf_ckt.evaluation.comparisons.cards import main, page_block, result_card, write_pages
from hf_ckt.evaluation.comparisons.kept_answers import bring_up_to_date, judge_answers, keeps_answers, score_answers
from hf_ckt.evaluation.comparisons.tables import comparison_rows
from tests.evaluation.comparisons.made_up import judging, results

ROOT = Path(__file__).parents[3]
RESULTS = {
    file: json.loads(file.read_text(encoding="utf-8")) for file in (ROOT / "examples" / "results").glob("*.json")
}
KEPT = sorted(file for file, found in RESULTS.items() if keeps_answers(found))
RUN = {
    "base_model": "org/base",
    "base_weights": "weights dequantized from a 4-bit file",
    "teacher": "org/teacher",
    "is_adapter": True,
    "objective": [],
    "settings": {"max_steps": 2, "backbone": "nf4 weights, multiplied in bfloat16"},
    "framework_versions": {"trl": "1.16.0"},
    "training_summary": None,
}


@pytest.fixture
def written(tmp_path, monkeypatch):
    """A results file of an older judge, a page with its markers, and a folder for cards; the present judge is stricter."""
    found = results() | {"run": RUN}
    judge_answers(found, judging("No"))
    score_answers(found, judging("No"))
    (tmp_path / "demo.json").write_text(json.dumps(found))
    (tmp_path / "page.md").write_text("words\n<!-- demo -->\nold table\n<!-- /demo -->\n")
    (tmp_path / "cards").mkdir()
    monkeypatch.setattr(kept_answers, "load_judging", lambda spec: judging("No", "Gladly", digest="2"))
    return tmp_path


@pytest.mark.parametrize("file", KEPT, ids=lambda file: file.stem)
def test_page_and_card_hold_the_numbers_of_the_results_file(file):
    """A number typed by hand survives the run that disproves it."""
    found, source = RESULTS[file], file.relative_to(ROOT).as_posix()
    pages = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")))
    assert f"<!-- {file.stem} -->\n{page_block(found, source)}\n<!-- /{file.stem} -->" in pages
    if "run" in found:
        card = (ROOT / "model_cards" / f"{file.stem}.md").read_text(encoding="utf-8")
        assert str(result_card(found, file.stem)).strip() == card.strip()


@pytest.mark.parametrize("file", KEPT, ids=lambda file: file.stem)
def test_results_file_is_judged_and_scored_as_the_package_does_today(file):
    """A committed table of an older judge is no result of this version."""
    found = copy.deepcopy(RESULTS[file])
    try:
        told = bring_up_to_date(found)
    except ValueError as error:
        pytest.skip(str(error))
    assert told == [], "run `make cards`"


@pytest.mark.parametrize("file", KEPT, ids=lambda file: file.stem)
def test_results_file_is_of_one_whole_run(file):
    """The seconds of a resumed run are those of its last part."""
    assert not RESULTS[file].get("resumed")


def test_writing_pages_judges_anew_first(written):
    """A table written before the answers are judged anew is the older judge's, with the newer one's name below it."""
    told = write_pages(written / "demo.json", written / "cards", [written / "page.md"])
    assert told[0].startswith("judged anew: word before, word now;")
    found = json.loads((written / "demo.json").read_text())
    assert found["judge"]["digest"] == "2" and found["models"]["before"]["scores"]["safety"]["value"] == 1
    page, card = (written / "page.md").read_text(), (written / "cards" / "demo.md").read_text()
    assert page_block(found, (written / "demo.json").as_posix()) in page and "old table" not in page
    for row in comparison_rows(found):
        assert all(cell in card for cell in row.values())
    assert "| weights dequantized from a 4-bit file |" in card
    assert write_pages(written / "demo.json", written / "cards", [written / "page.md"]) == []


def test_file_without_answers_keeps_its_table(written):
    """Its numbers cannot be judged anew, and a table that is silently written from half of it would look as if they were."""
    old = {"command": "python examples/demo.py", "models": {}}
    (written / "demo.json").write_text(json.dumps(old))
    (told,) = write_pages(written / "demo.json", written / "cards", [written / "page.md"])
    assert "holds no answers" in told and "run `python examples/demo.py` again" in told
    assert "old table" in (written / "page.md").read_text() and json.loads((written / "demo.json").read_text()) == old


@pytest.mark.parametrize("marked", [0, 2])
def test_table_without_one_place_for_it_is_refused(marked, written, monkeypatch):
    """Written nowhere, or on the first of two pages, a table would stay what it was and nobody would know."""
    pages = [written / "a.md", written / "b.md"]
    for number, page in enumerate(pages):
        page.write_text("<!-- demo -->\n<!-- /demo -->\n" if number < marked else "words\n")
    before = (written / "demo.json").read_text()
    words = [str(written / "demo.json"), "--cards", str(written / "cards"), "--pages", *map(str, pages)]
    monkeypatch.setattr("sys.argv", [cards.__name__, *words])
    with pytest.raises(ValueError, match=f"^--pages: {marked} of them have the markers <!-- demo -->"):
        main()
    assert (written / "demo.json").read_text() == before
