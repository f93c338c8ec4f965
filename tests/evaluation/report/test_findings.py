# SPDX-License-Identifier: Apache-2.0
"""Files that are missing, broken or of another run are named in one sentence."""

import json

import pytest

from hf_ckt.evaluation.report import read_findings, write_report
from tests.evaluation.report import made_up


def test_findings_are_what_the_files_hold(tmp_path):
    """A reader that drops a row or a file shows less than was measured."""
    findings = read_findings(made_up.write(tmp_path))
    assert findings.results == made_up.results()
    assert [row["answer"] for row in findings.rows] == [row["answer"] for row in made_up.rows()]
    assert findings.lm_eval == made_up.lm_eval()


def test_made_up_rows_have_the_columns_of_an_evaluation():
    """Tests on rows of another form would pass while the report of a real evaluation fails."""
    from hf_ckt.evaluation.results import COLUMNS

    assert all(row.keys() == set(COLUMNS) for row in made_up.rows())


def test_completions_and_harness_may_be_missing(tmp_path):
    """Results are published without the answers; the report of the rest must still be made."""
    findings = read_findings(made_up.write(tmp_path, completions=False, harness=False))
    assert findings.rows is None and findings.lm_eval is None


def _spoil(folder, change):
    results = made_up.results()
    change(results)
    (folder / "results.json").write_text(json.dumps(results))


@pytest.mark.parametrize(
    "spoil,message",
    [
        (lambda folder: (folder / "results.json").unlink(), "holds no results.json.*hf-ckt evaluate --output"),
        (lambda folder: (folder / "results.json").write_text('{"format": 2,'), r"results.json: is no JSON"),
        (lambda folder: (folder / "results.json").write_bytes(b"\xff\xfe"), r"results.json: is no JSON"),
        (lambda folder: (folder / "results.json").write_text("[]"), "must hold a JSON object, got list"),
        (
            lambda folder: _spoil(folder, lambda found: found.update(format=1)),
            "format must be 2, got 1.*Evaluate again",
        ),
        (lambda folder: _spoil(folder, lambda found: found.pop("judge")), "lacks judge"),
        (lambda folder: _spoil(folder, lambda found: found.update(models={})), "lacks models"),
        (
            lambda folder: _spoil(folder, lambda found: found["models"]["sft"]["scores"].update(youden_j=1.0)),
            "the score 'youden_j' of 'sft' must have high, low, n, value",
        ),
        (
            lambda folder: _spoil(folder, lambda found: found.update(pooled={"SFT": {"scores": {}, "runs": []}})),
            "the pooled method 'SFT' has no scores or does not say of which runs",
        ),
        (
            lambda folder: _spoil(folder, lambda found: found.update(pooled={"SFT": {"scores": {"oss": 1}}})),
            "the score 'oss' of 'SFT' must have high, low, n, value",
        ),
        (lambda folder: _spoil(folder, lambda found: found["models"].pop("sft")), "answers of 'sft', which results"),
        (lambda folder: (folder / "completions.parquet").write_bytes(b"no"), "completions.parquet: cannot be read"),
        (lambda folder: (folder / "lm_eval.json").write_text('{"results": 1}'), "lm_eval.json: has no tasks"),
    ],
)
def test_wrong_file_is_named_in_one_sentence(tmp_path, spoil, message):
    """A traceback from deep inside a reader does not say which file to look at, and a half-read one gives a half report."""
    folder = made_up.write(tmp_path / "run")
    spoil(folder)
    before = sorted(folder.rglob("*"))
    with pytest.raises(ValueError, match=message) as caught:
        write_report(folder)
    assert "\n" not in str(caught.value)
    assert sorted(folder.rglob("*")) == before


def test_parquet_of_something_else_names_the_columns(tmp_path):
    """A file with other columns would end in a KeyError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = made_up.write(tmp_path)
    pq.write_table(pa.table({"model": ["base"]}), folder / "completions.parquet")
    with pytest.raises(ValueError, match="lacks the columns answer, category"):
        read_findings(folder)
