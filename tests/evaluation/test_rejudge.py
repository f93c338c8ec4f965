# SPDX-License-Identifier: Apache-2.0
"""Kept answers under another judge: what changes, what stays, and that a kill costs nothing."""

import copy
import json

import pyarrow.parquet as pq
import pytest

from hf_ckt.evaluation import rejudge as module
from hf_ckt.evaluation.judges import load_judge
from hf_ckt.evaluation.judging import Judging, load_judging
from hf_ckt.evaluation.measuring.store import file_digest
from hf_ckt.evaluation.recorded import judge_warnings
from hf_ckt.evaluation.rejudge import rejudge
from hf_ckt.evaluation.report.findings import read_findings
from hf_ckt.evaluation.results import COLUMNS, scored, write_completions

POOLS = {"method": ["one", "two"]}
# A refusal by rule that is none by AdvBench's list, one by both, and an answer.
SAID = ("I won't help with breaking into a house.", "I'm sorry, but no.", "Take the red one.")
RECORDS = {
    name: [
        {"id": f"{n}", "kind": "benign", "noise": False, "tokens": 4, "bins": [[0, 0, 0]] * 9 + [[4, 3.8, 3]]}
        | {"sums": dict.fromkeys(("acceptance", "agreement", "top10_overlap", "kl", "jsd"), 1 + (n + place) % 3)}
        for n in range(6)
    ]
    for place, name in enumerate(("one", "two"))
}


def _rows(name, place):
    empty = dict.fromkeys(COLUMNS) | {"model": name, "template": "", "corruption": "", "severity": 0.0, "seed": 0}
    return [
        empty
        | {"suite": suite, "set": "own", "prompt_id": f"{n}", "kind": kind, "category": "", "prompt": f"Do {n}"}
        # Each model answers in an order of its own, and refuses harmful prompts more often.
        | {"request": f"Do {n}", "answer": SAID[(n * (place + 2) + place) % (2 if kind == "harmful" and n % 4 else 3)]}
        for kind, suite in (("harmful", "direct"), ("benign", "overrefusal"))
        for n in range(12)
    ]


def _results(judging):
    rows = {name: judging.judged(_rows(name, place)) for place, name in enumerate(("base", "one", "two"))}
    return rows, scored(rows, judging, POOLS, RECORDS, named=True)


@pytest.fixture
def folder(tmp_path):
    judging = load_judging("rule")
    rows, numbers = _results(judging)
    write_completions(tmp_path / "completions.parquet", [row for mine in rows.values() for row in mine])
    results = {"format": 2, "command": "", "tier": "smoke", "suites": ["direct"], "left_out": {}, "sets": []}
    results |= {"settings": {"judge": "rule"}, "judge": judging.described(), "generation": {"new_tokens": 16}}
    results |= {"seeds": [0], "versions": {}, "device": "", **copy.deepcopy(numbers)}
    results["warnings"] = ["one: its adapter is another.", *judge_warnings([judging.harmful], 16)]
    results["completions"] = file_digest(tmp_path / "completions.parquet")
    (tmp_path / "results.json").write_text(json.dumps(results))
    return tmp_path


def test_rejudged_scores_are_those_of_the_judge_and_agreement_stays(folder):
    """Half of the old scores beside half of the new ones, or agreement that is lost, or not that of the runs pooled."""
    before = json.loads((folder / "results.json").read_text())
    found = rejudge(folder, "advbench")
    rows, expected = _results(load_judging("advbench"))
    assert found == json.loads((folder / "results.json").read_text())
    assert found["models"] == json.loads(json.dumps(expected["models"])) and found["pooled"] == expected["pooled"]
    assert found["models"]["one"]["scores"]["safety"] != before["models"]["one"]["scores"]["safety"]
    for part in (found["models"]["one"], found["pooled"]["method"]):
        assert part["scores"]["kd_alignment"]["n"] == 6
    assert "kd_alignment" in found["models"]["two"]["against"]["one"]
    assert pq.read_table(folder / "completions.parquet").to_pylist() == [row for mine in rows.values() for row in mine]
    again = rejudge(folder, "rule")
    assert again | {"rejudged": None} == before | {"rejudged": None}


def test_warnings_are_of_the_judge_that_judged(folder):
    """A refusal that the new judge never read is missing from the rates, and the sentence is still the old judge's."""

    class Reader(type(load_judge("rule"))):
        name, reads_words = "reader", 80

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load_judging", lambda *args, **options: Judging(Reader(), Reader()))
        warnings = rejudge(folder)["warnings"]
    assert warnings[0] == "one: its adapter is another." and len(warnings) == 2
    assert warnings[1].startswith(
        "judge reader: it reads the first 80 words of an answer, and 16 new tokens end before"
    )


@pytest.mark.parametrize("written", [1, 2])
def test_rejudging_that_was_stopped_starts_over(written, folder, tmp_path, monkeypatch):
    """Between the two files the answers belonged to no results, and without the models nothing could judge them again."""
    write, left = module.replace_json, written - 1

    def stopped(path, content):
        nonlocal left
        if not left:
            raise KeyboardInterrupt
        left -= 1
        write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(module, "replace_json", stopped)
        with pytest.raises(KeyboardInterrupt):
            rejudge(folder, "advbench")
    if written == 1:
        assert read_findings(folder).results["judge"]["name"] == "rule"
    else:
        with pytest.raises(ValueError, match=r"`hf-ckt rejudge` was stopped .* Run it again"):
            read_findings(folder)
    found = rejudge(folder, "advbench")
    assert "rejudging" not in found and read_findings(folder).results == found
    assert found["models"] == json.loads(json.dumps(_results(load_judging("advbench"))[1]["models"]))
