# SPDX-License-Identifier: Apache-2.0
"""The judge that a name stands for."""

import json

import pytest

from hf_ckt.evaluation import judges
from hf_ckt.evaluation.judges import Judge, Verdict, base, is_degenerate, judge_names, load_judge
from hf_ckt.evaluation.judges.base import length_batches
from hf_ckt.evaluation.judges.encoder import INSTALL, encoder_folder
from tests.evaluation.judges.models import save_letter_counter, save_word_classifier


@pytest.mark.parametrize("name", judge_names())
def test_every_named_judge_keeps_the_contract(name):
    """A judge that loses an answer, or leaves its own verdict open, shifts every verdict after it."""
    if name == "learned" and encoder_folder() is None:
        pytest.skip(f"needs all-MiniLM-L6-v2: {INSTALL}")
    judge = load_judge(name)
    assert isinstance(judge, Judge) and judge.name == name and judge.measures.startswith("attack success")
    answers = ["I'm sorry, but I cannot help with that.", "", "Boil the eggs for nine minutes.", "so it is " * 20]
    verdicts = judge.verdicts(["?"] * len(answers), answers)
    assert [verdict.degenerate for verdict in verdicts] == [False, True, False, True]
    assert [verdict.refused for verdict in verdicts] == [True, False, False, False]
    assert judge.verdicts(["?"], answers[:1]) == verdicts[:1] and judge.verdicts([], []) == []


@pytest.mark.parametrize(
    ("installed", "rule", "learned", "expected"),
    [(True, 0.8, 0.9, "learned"), (True, 0.9, 0.8, "rule"), (False, 0.8, 0.9, "rule")],
)
def test_auto_is_the_better_judge_that_can_run(monkeypatch, tmp_path, installed, rule, learned, expected):
    """A default that is worse than what stands beside it, or one that stops for want of a wheel."""
    monkeypatch.setattr(judges, "encoder_folder", lambda: tmp_path if installed else None)
    monkeypatch.setattr(base, "__file__", str(tmp_path / "base.py"))
    for name, accuracy in (("rule", rule), ("learned", learned)):
        own = {"set": "our own", "accuracy": 1 - accuracy}
        (tmp_path / f"{name}_error.json").write_text(json.dumps([own, {"set": judges.PEOPLE, "accuracy": accuracy}]))
    assert judges.best_judge() == expected
    if expected == "rule":
        assert load_judge("auto").name == "rule"


def test_digest_changes_with_what_decides_and_with_nothing_else(monkeypatch, tmp_path):
    """Results of an older judge would pass for those of this one, or a comment would make them all old."""
    code = tmp_path / "own.py"
    judge = load_judge("rule")
    monkeypatch.setattr(type(judge), "decided_by", lambda self: [code, tmp_path / "weights.json"])
    (tmp_path / "weights.json").write_text("[1]")

    def digest(text):
        code.write_text(text)
        return judge.digest

    first = digest('"""What it is."""\nWORDS = ("no",)\ndef f(x):\n    """Says."""\n    return x in WORDS\n')
    assert digest('WORDS = (\n    "no",\n)  # all\n\n\ndef f(x):\n    return x in WORDS\n') == first
    assert digest('WORDS = ("no", "never")\ndef f(x):\n    return x in WORDS\n') != first
    again = digest('WORDS = ("no",)\ndef f(x):\n    return x in WORDS\n')
    (tmp_path / "weights.json").write_text("[2]")
    assert again == first != judge.digest


def test_a_file_in_the_folder_is_a_judge(monkeypatch, tmp_path):
    """A list of judges to extend is forgotten."""
    folder = tmp_path / "judges"
    folder.mkdir()
    (folder / "coin_toss.py").write_text(
        "from hf_ckt.evaluation.judges import Judge, Verdict\n"
        "class CoinTossJudge(Judge):\n"
        "    name, measures = 'coin_toss', 'luck'\n"
        "    def verdicts(self, prompts, answers):\n"
        "        return [Verdict(True, False) for _ in answers]\n"
    )
    monkeypatch.setattr(judges, "__file__", str(folder / "__init__.py"))
    monkeypatch.setattr(judges, "__path__", [str(folder)])
    assert judge_names() == ["coin_toss"]
    assert load_judge("coin_toss").verdicts(["?"], ["!"]) == [Verdict(True, False)]


@pytest.mark.parametrize(("spec", "message"), [("rul", "Did you mean 'rule'"), ("org/model", "hf:org/model")])
def test_unknown_judge_raises_and_names_a_near_one(spec, message):
    """A misspelt name must not cost the hours of answering before it is noticed."""
    with pytest.raises(ValueError, match=message):
        load_judge(spec)


@pytest.mark.parametrize("name", ["chat", "classifier", "base", "degeneration", "encoder", "labelled"])
def test_files_that_need_a_model_are_no_names(name):
    """They would be made without one, and fail where nobody expects it."""
    with pytest.raises(ValueError, match="unknown name"):
        load_judge(name)


def test_the_config_of_a_model_says_which_kind_of_judge_it_is(tmp_path, tiny_model_dir):
    """A classifier that is asked with a rubric, or a chat model whose head is made up, gives noise."""
    classifier = load_judge(f"hf:{save_word_classifier(tmp_path / 'words#1@2')}")
    chat = load_judge(f"hf:{save_letter_counter(tmp_path / 'letters')}")
    assert (type(classifier).__name__, type(chat).__name__) == ("ClassifierJudge", "ChatJudge")
    # A folder's name may hold the signs of a label and a revision; its path goes nowhere.
    assert (classifier.name, chat.name) == ("hf:words#1@2", "hf:letters")
    assert load_judge(f"hf:{tmp_path / 'words#1@2'}").error == []


def test_a_model_of_another_kind_raises(tmp_path):
    """An encoder has no answer and no label."""
    from transformers import BertConfig, BertModel

    sizes = {"vocab_size": 8, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    BertModel(BertConfig(**sizes, intermediate_size=8)).save_pretrained(tmp_path / "encoder")
    with pytest.raises(ValueError, match="BertModel, which neither classifies"):
        load_judge(f"hf:{tmp_path / 'encoder'}")


def test_error_is_read_from_beside_the_judge(monkeypatch, tmp_path):
    """Rates without the judge's error pass for the truth."""
    monkeypatch.setattr(base, "__file__", str(tmp_path / "base.py"))
    assert load_judge("rule").error == []
    (tmp_path / "rule_error.json").write_text(json.dumps([{"set": "mine", "accuracy": 0.5}]))
    assert load_judge("rule").error == [{"set": "mine", "accuracy": 0.5}]


def test_batches_hold_every_text_once_shortest_first():
    """A text left out of a batch would leave its answer without a verdict."""
    texts = ["word " * number for number in (5, 1, 4, 2, 3)]
    batches = list(length_batches(texts, 2, "judging"))
    assert batches == [[1, 3], [4, 2], [0]]
    assert list(length_batches([], 2, "judging")) == []


def test_degenerate_answers_are_told_from_short_ones():
    """A model that repeats one phrase refuses nothing, and would count as helpful."""
    assert is_degenerate("") and is_degenerate(" \n")
    assert is_degenerate("the the the the the the the the the")
    # By hand: 4-grams 1, 2, 6 and 7 of 7 are pairs, and with another word at the end they are 4 of 8, no more than half.
    assert is_degenerate("a b c d e a b c d e")
    assert not is_degenerate("a b c d e a b c d e f")
    assert not is_degenerate("Yes.")
    assert not is_degenerate("Boil the eggs for nine minutes, then cool them under running water.")


@pytest.mark.parametrize("name", ["rule", "advbench"])
def test_thought_before_an_answer_is_not_judged(name):
    """Labelled answers and those given to a metric may hold their thoughts: each would count as what it only considers."""
    answers = [
        "<think>I cannot do that.</think> Sure, here it is.",
        "<think>Sure?</think>\nI'm sorry, but I can't help.",
    ]
    answers += ["<think>I cannot", "Sure, <think> is a tag."]
    found = load_judge(name).verdicts(["?"] * 4, answers)
    assert [verdict.refused for verdict in found] == [False, True, False, False]
    assert [verdict.degenerate for verdict in found] == [False, False, True, False]


def test_verdicts_of_a_folder_are_kept_by_its_weights_whatever_its_name(tmp_path):
    """Kept under the folder that stands before a sign in the path, they would outlive the weights that they are of."""
    from hf_ckt.evaluation.judging import load_judging
    from hf_ckt.evaluation.measuring.models import identity_of

    folder = save_word_classifier(tmp_path / "words@2")
    (tmp_path / "words").mkdir()
    assert load_judging(f"hf:{folder}").identity == identity_of(str(folder))
