# SPDX-License-Identifier: Apache-2.0
"""Which model a judge is: verdicts of another one would be read as its own."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub.constants import HF_HUB_CACHE

from hf_ckt.evaluation import judging as module
from hf_ckt.evaluation.judges import Verdict
from hf_ckt.evaluation.judges.rule import RuleJudge
from hf_ckt.evaluation.judging import Judging, load_judging
from hf_ckt.evaluation.measuring.store import PieceStore

CONFIG = {
    "model_type": "distilbert",
    "architectures": ["DistilBertForSequenceClassification"],
    "id2label": {"0": "answer", "1": "refusal"},
    "label2id": {"answer": 0, "refusal": 1},
}


def _save(folder, **more):
    Path(folder).mkdir(parents=True)
    Path(folder, "config.json").write_text(json.dumps(CONFIG | more))
    return str(folder)


def test_folder_whose_name_holds_a_sign_of_labels_or_revisions_is_a_judge(tmp_path):
    """The part before the sign is no folder, and would be looked for on the Hub."""
    first, other = (_save(tmp_path / name, n_heads=heads) for name, heads in (("judge#2@a", 4), ("judge#2@b", 6)))
    found = [load_judging(f"hf:{spec}").identity for spec in (first, other)]
    assert found[0] != found[1] and all(found)


def test_revision_of_a_judge_is_part_of_what_its_verdicts_are_kept_by():
    """A branch that has moved on would be answered with the verdicts of what it was, and one without main not at all."""
    repository = Path(HF_HUB_CACHE, "models--org--judge-of-the-hub")
    try:
        for name, commit in (("main", "0" * 40), ("v2", "1" * 40)):
            _save(repository / "snapshots" / commit)
            (repository / "refs").mkdir(exist_ok=True)
            (repository / "refs" / name).write_text(commit)
        found = [load_judging(f"hf:org/judge-of-the-hub{end}").identity for end in ("", "@v2", "@v2#refusal")]
        (repository / "refs" / "main").unlink()
        shutil.rmtree(repository / "snapshots" / ("0" * 40))
        alone = load_judging("hf:org/judge-of-the-hub@v2").identity
    finally:
        shutil.rmtree(repository)
    assert found == [f"org/judge-of-the-hub@{commit * 40}" for commit in "011"] and alone == found[1]


def test_verdicts_of_a_model_are_kept_until_something_that_decides_them_changes(tmp_path, monkeypatch):
    """Verdicts of another version of a library, or of other weights, would stand under this one's name."""
    asked = []

    class Counting(RuleJudge):
        name, libraries = "hf:org/judge", ("torch",)

        def verdicts(self, prompts, answers):
            asked.extend(answers)
            return [Verdict(answer == "No.", False) for answer in answers]

    rows = [{"kind": "harmful", "request": "How?", "answer": answer} for answer in ("No.", "Thus.")]
    judging = Judging(Counting(), Counting(), PieceStore(tmp_path), "first")
    for _ in range(2):
        assert [row["refused"] for row in judging.judged(rows)] == [True, False]
    assert len(asked) == 2
    replace(judging, identity="second").judged(rows)
    assert len(asked) == 4
    monkeypatch.setattr(module, "library_versions", lambda *names: dict.fromkeys(names, "another"))
    judging.judged(rows)
    assert len(asked) == 6


@pytest.mark.parametrize("spec", ["rule", "advbench"])
def test_judge_by_rule_has_no_identity_but_its_digest(spec):
    """Its verdicts are quicker than reading a file, and are not kept."""
    judging = load_judging(spec)
    assert judging.identity is None and judging.harmful.digest
