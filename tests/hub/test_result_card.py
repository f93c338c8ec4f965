# SPDX-License-Identifier: Apache-2.0
"""Cards and tables from results files."""

import json
from pathlib import Path

import pytest

from hf_ckt.hub.result_card import readme_block, result_card, result_rows

ROOT = Path(__file__).parents[2]
RESULTS = sorted((ROOT / "examples" / "results").glob("*.json"))


@pytest.mark.parametrize("file", RESULTS, ids=lambda file: file.stem)
def test_readme_and_card_hold_the_numbers_of_the_results_file(file):
    """A number typed by hand survives the run that disproves it."""
    results = json.loads(file.read_text(encoding="utf-8"))
    source = file.relative_to(ROOT).as_posix()
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"<!-- {file.stem} -->\n{readme_block(results, source)}\n<!-- /{file.stem} -->" in readme
    card = (ROOT / "model_cards" / f"{file.stem}.md").read_text(encoding="utf-8")
    for row in result_rows(results):
        assert all(str(cell) in card for cell in row.values())
    assert str(result_card(results, f"SmolLM2-135M-Instruct, {file.stem}")).strip() == card.strip()


@pytest.mark.parametrize("file", RESULTS, ids=lambda file: file.stem)
def test_results_file_is_of_one_whole_run(file):
    """The seconds of a resumed run are those of its last part."""
    assert json.loads(file.read_text(encoding="utf-8"))["resumed"] is False
