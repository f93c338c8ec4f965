# SPDX-License-Identifier: Apache-2.0
"""Files of two models in one folder never become one report."""

import json

import pytest

from hf_ckt.evaluation.report import read_findings, write_report
from hf_ckt.evaluation.results import write_completions
from hf_ckt.evaluation.same_models import require_folder_of, require_same_models
from tests.evaluation.report import made_up

BASE = {"model": "org/base", "adapter": None}


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        (BASE, BASE, True),
        (BASE, {**BASE, "model": "org/other"}, False),
        (BASE, {**BASE, "adapter": "org/adapter"}, False),
        (BASE, {**BASE, "identity": ["a", None]}, True),  # an older file states no identity
        ({**BASE, "identity": ["a", None]}, {**BASE, "identity": ["a", None]}, True),
        ({**BASE, "identity": ["a", None]}, {**BASE, "identity": ["b", None]}, False),  # two folders of one name
        ({**BASE, "identity": ["a", None]}, {"model": "copy", "adapter": None, "identity": ["a", None]}, True),
    ],
)
def test_models_are_the_same_by_weights_and_else_by_name(first, second, same, tmp_path):
    """Scores of one model beside another's answers, both called "base"."""
    (tmp_path / "lm_eval.json").write_text(json.dumps({"models": {"base": first, "mine": BASE}}))
    models = {"base": second, "yours": {**BASE, "model": "org/third"}}
    if same:
        require_same_models("a", {"base": first}, "b", models)
        require_folder_of(tmp_path, "lm_eval.json", models)
        return
    with pytest.raises(ValueError, match=r"^a: 'base' is org/base"):
        require_same_models("a", {"base": first}, "b", models)
    with pytest.raises(ValueError, match=r"^--output: .*/lm_eval\.json: 'base' is .* a folder of their own"):
        require_folder_of(tmp_path, "lm_eval.json", models)


@pytest.mark.parametrize("content", [None, "{", "[]", '{"models": []}', "{}"])
def test_folder_without_readable_results_is_free(content, tmp_path):
    """A half-written file of a killed run must not lock the folder."""
    if content is not None:
        (tmp_path / "lm_eval.json").write_text(content)
    require_folder_of(tmp_path, "lm_eval.json", {"base": BASE})


def test_report_refuses_the_harness_of_another_model(tmp_path):
    """The table would put two models' scores into one column."""
    folder = made_up.write(tmp_path)
    harness = {**made_up.lm_eval(), "models": {"base": BASE}}
    results = made_up.results()
    results["models"]["base"] |= {"model": "org/other", "adapter": None}
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "lm_eval.json").write_text(json.dumps(harness))
    with pytest.raises(ValueError, match=r"^lm_eval\.json: 'base' is org/base there and org/other in results\.json"):
        write_report(folder)
    results["models"]["base"]["model"] = "org/base"
    (folder / "results.json").write_text(json.dumps(results))
    assert read_findings(folder).lm_eval == harness


def test_report_refuses_answers_of_another_run(tmp_path):
    """A run that is killed between its two files leaves new answers beside the scores of old ones."""
    folder = made_up.write(tmp_path)
    results = {**made_up.results(), "completions": "0" * 32}
    (folder / "results.json").write_text(json.dumps(results))
    with pytest.raises(
        ValueError, match=r"^completions\.parquet: is not the file that results\.json was written with"
    ):
        read_findings(folder)
    from hf_ckt.evaluation.measuring.store import file_digest

    write_completions(folder / "completions.parquet", made_up.rows())
    results["completions"] = file_digest(folder / "completions.parquet")
    (folder / "results.json").write_text(json.dumps(results))
    assert len(read_findings(folder).rows) == len(made_up.rows())
