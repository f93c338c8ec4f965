# SPDX-License-Identifier: Apache-2.0
"""What results state of how they were made, and that other words and other tokens are other answers."""

import json
from importlib.metadata import version

import pytest
from transformers import AutoTokenizer

from hf_ckt.evaluation.judges import load_judge
from hf_ckt.evaluation.measuring.models import EvaluatedModel, Loading
from hf_ckt.evaluation.recorded import result_versions, run_warnings, tokens_read
from hf_ckt.evaluation.run import Evaluation, evaluate
from hf_ckt.models.precision import RECORD
from tests.evaluation.measuring.saved_adapters import save_adapter


def test_versions_are_of_all_that_changes_an_answer_or_a_score():
    """A number that moved with a library whose version is not stated cannot be explained."""
    found = result_versions(Loading(quantization="nf4"))
    names = {"torch", "transformers", "peft", "tokenizers", "jinja2", "bitsandbytes", "numpy", "scipy", "scikit-learn"}
    assert names <= found.keys() and all(found[name] == version(name) for name in names)
    assert "hf_ckt" in found and "bitsandbytes" not in result_versions(Loading())


def test_answer_shorter_than_what_a_judge_reads_is_said(tiny_model_dir):
    """A rule that reads 40 words was given answers of 24 tokens, and later refusals counted as compliance."""
    rule, advbench = load_judge("rule"), load_judge("advbench")
    assert tokens_read(rule) == 60 and tokens_read(advbench) is None
    base = [EvaluatedModel("base", str(tiny_model_dir))]
    (said,) = run_warnings(base, Loading(), [rule, advbench, rule], 48)
    assert said.startswith("judge rule: it reads the first 40 words") and said.endswith(
        "Give --new-tokens 60 or more."
    )
    assert run_warnings(base, Loading(), [rule, advbench], 60) == []


def test_rule_judge_reads_as_many_words_as_it_says():
    """The number stands apart from the rule that it describes."""
    from hf_ckt.evaluation.judges import is_refusal

    words = load_judge("rule").reads_words
    for before, refused in ((words - 4, True), (words, False)):
        assert is_refusal(" ".join(["well,"] * before) + " I can't help with that.") == refused


def test_precision_that_differs_is_among_the_warnings(tiny_model_dir, tmp_path):
    """Two kinds of warnings in two places: one of them is not looked at."""
    adapter = save_adapter(tiny_model_dir, tmp_path / "trained")
    (tmp_path / "trained" / RECORD).write_text(json.dumps({"backbone": {"weights": "nf4", "compute": "bfloat16"}}))
    (said,) = run_warnings([EvaluatedModel("student", str(tiny_model_dir), adapter)], Loading("float32"))
    assert "--load-in-4bit" in said


@pytest.fixture
def adapter(tiny_model_dir, tmp_path):
    """An adapter that was saved with the tokenizer, and the folder of a finished evaluation of it."""
    folder = tmp_path / "adapter"
    save_adapter(tiny_model_dir, folder)
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(folder)
    return folder


def _change_merges(folder):
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["merges"] = content["model"]["merges"][:-1]
    (folder / "tokenizer.json").write_text(json.dumps(content))


def _change_template(folder):
    file = folder / "chat_template.jinja"
    file.write_text(file.read_text().replace("message['content'] +", "message['content'] + ' ' +"))


@pytest.mark.parametrize("change", [_change_merges, _change_template])
def test_changed_tokenizer_or_template_answers_anew(change, tiny_model_dir, adapter, tmp_path):
    """Answers to other tokens, read from the pieces of the run before, belong to a model that is no longer there."""
    options = Evaluation(str(tiny_model_dir), str(adapter), only=("direct",), new_tokens=2)

    def kept():
        results = evaluate(options, tmp_path / "out")
        return {file.name for file in (tmp_path / "out" / "pieces").glob("*.json")}, results

    before, first = kept()
    assert kept()[0] == before
    change(adapter)
    after, second = kept()
    # The base's pieces are read again, and none of the adapter's.
    assert before < after and len(after) - len(before) == len(before) // 2
    digests = [results["models"]["adapter"]["chat"] for results in (first, second)]
    assert digests[0] != digests[1] and first["models"]["base"]["chat"] == second["models"]["base"]["chat"]
