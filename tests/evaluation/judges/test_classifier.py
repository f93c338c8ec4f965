# SPDX-License-Identifier: Apache-2.0
"""Classifiers as judges, on a model whose weights are set by hand."""

import math

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from hf_ckt.evaluation.judges import load_judge
from hf_ckt.evaluation.judges.classifier import ClassifierJudge, _wanted_labels
from tests.evaluation.judges.models import save_word_classifier

ANSWERS = ["sorry", "gladly", "one two three sorry", "one two three four five", "", "one sorry", "two"] * 6
REFUSED = ["sorry" in answer for answer in ANSWERS]


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return save_word_classifier(tmp_path_factory.mktemp("classifiers") / "words")


def test_judge_finds_the_label_and_keeps_the_order(words):
    """Batches are sorted by length: a verdict that lands on another answer makes every rate noise."""
    verdicts = load_judge(f"hf:{words}").verdicts(["?"] * len(ANSWERS), ANSWERS)
    assert [verdict.refused for verdict in verdicts] == REFUSED
    assert [verdict.degenerate for verdict in verdicts] == [not answer for answer in ANSWERS]
    assert all(0.5 <= verdict.confidence <= 1 for verdict in verdicts)


def test_confidence_is_the_probability_of_the_verdict(words):
    """By hand: the layer norms make a text of unknown words (-0.378, 2.646, ...), and the label's logit 100 tanh + 30."""
    verdict = load_judge(f"hf:{words}").verdicts(["?"], ["one two"])[0]
    first = (0 - 1 / 8) / math.sqrt(1 / 8 - 1 / 64)
    share = 1 / (1 + math.exp(-(100 * math.tanh(first) + 30)))
    assert verdict.confidence == pytest.approx(1 - share, abs=1e-4)


def test_verdict_does_not_depend_on_the_batch(words):
    """Padding that is attended to would make a short answer's verdict depend on the long one beside it."""
    judge = load_judge(f"hf:{words}")
    alone = [judge.verdicts(["?"], [answer])[0].confidence for answer in ANSWERS[:7]]
    together = [verdict.confidence for verdict in judge.verdicts(["?"] * 7, ANSWERS[:7])]
    assert together == pytest.approx(alone, abs=1e-5)


def test_answers_longer_than_the_model_are_cut(words):
    """Beyond its positions the model would stop with an index error, hours into an evaluation."""
    assert not load_judge(f"hf:{words}").verdicts(["?"], ["word " * 500])[0].refused


def test_harm_is_turned_around_and_scores_no_refusals(tmp_path):
    """Everything benign is harmless: such a judge would call every helpful answer a refusal."""
    judge = load_judge(f"hf:{save_word_classifier(tmp_path / 'harm', {0: 'unharmful', 1: 'harmful'})}")
    assert not judge.scores_refusals and "harm" in judge.measures
    assert [verdict.refused for verdict in judge.verdicts(["?"] * 2, ["sorry", "gladly"])] == [False, True]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["NORMAL", "REJECTION"], ([1], True)),
        (["Non-refusal", "Refusal"], ([1], True)),
        (["refused", "not_refused"], ([0], True)),
        (["compliant", "full_refusal", "partial_refusal", "clarification"], ([1, 2], True)),
        (["1_full_compliance", "2_full_refusal", "3_partial_refusal"], ([1, 2], True)),
        (["harmless", "harmful"], ([1], False)),
        (["safe", "unsafe"], ([1], False)),
        (["non-toxic", "toxic"], ([1], False)),
        (["declined", "harmful"], ([0], True)),
    ],
)
def test_label_is_found_by_its_name(labels, expected):
    """The other label, and every rate is turned around."""
    assert _wanted_labels("m", dict(enumerate(labels)), None) == expected


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [("LABEL_1", ([1], True)), ("harm=LABEL_0", ([0], False)), ("unsafe", ([2], False)), ("no_harm", ([3], True))],
)
def test_label_can_be_said(wanted, expected):
    """A label called unsafe does not mean refusal because it was named; one called LABEL_1 has nothing to go by."""
    assert _wanted_labels("m", {0: "LABEL_0", 1: "LABEL_1", 2: "unsafe", 3: "no_harm"}, wanted) == expected


def test_labels_without_a_meaning_raise_before_anything_is_answered(tmp_path):
    """A guess is right half the time."""
    folder = save_word_classifier(tmp_path / "numbered", {0: "LABEL_0", 1: "LABEL_1"})
    with pytest.raises(ValueError, match=r"LABEL_0, LABEL_1.*#LABEL'"):
        load_judge(f"hf:{folder}")
    with pytest.raises(ValueError, match=r"no label 'LABEL_7'"):
        ClassifierJudge(str(folder), "LABEL_7")
    assert [v.refused for v in ClassifierJudge(str(folder), "LABEL_1").verdicts(["?"] * 2, ["sorry", "no"])] == [
        True,
        False,
    ]
    assert [v.refused for v in load_judge(f"hf:{folder}#LABEL_1").verdicts(["?"] * 2, ["sorry", "no"])] == [
        True,
        False,
    ]


def test_several_refusal_labels_are_added_up():
    """A refusal whose probability is split between full and partial would lose to a smaller whole."""
    judge = ClassifierJudge.__new__(ClassifierJudge)
    judge._labels = [1, 2]
    config = type("Config", (), {"problem_type": None})()
    logits = torch.tensor([[0.4, 0.3, 0.3], [0.6, 0.2, 0.2]]).log()
    assert judge._shares(config, logits).tolist() == pytest.approx([0.6, 0.4])
    config.problem_type = "multi_label_classification"  # each label by itself
    assert judge._shares(config, torch.tensor([[9.0, 0.0, -1.0]])).tolist() == pytest.approx([0.5])
    judge._labels, config.problem_type = [0], None  # one logit: softmax over it is always 1
    assert judge._shares(config, torch.tensor([[0.0], [-1.0]])).tolist() == pytest.approx([0.5, 1 / (1 + math.e)])


def test_form_gives_the_model_the_request(words):
    """A model trained on request and answer, shown half of it, is another model."""
    judge = ClassifierJudge(str(words), form="{prompt} {answer}")
    assert [v.refused for v in judge.verdicts(["sorry", "{answer}"], ["gladly", "gladly"])] == [True, False]
    assert ClassifierJudge(str(words))._text("a", "b") == "b"
    with pytest.raises(ValueError, match=r"must hold \{answer\}"):
        ClassifierJudge(str(words), form="{prompt}")


def test_weights_load_late_and_from_safetensors_only(words, tmp_path, monkeypatch):
    """Weights held while answers are generated take the room of the model; a pickle may run code when it is read."""
    judge = load_judge(f"hf:{words}")
    assert "_loaded" not in vars(judge)
    given = {}
    load = AutoModelForSequenceClassification.from_pretrained
    monkeypatch.setattr(
        AutoModelForSequenceClassification,
        "from_pretrained",
        lambda path, **kwargs: given.update(kwargs) or load(path, **kwargs),
    )
    judge.verdicts(["?"], ["sorry"])
    assert given["use_safetensors"] is True and given["trust_remote_code"] is False

    folder = save_word_classifier(tmp_path / "pickled")
    weights = load(folder).state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        load_judge(f"hf:{folder}").verdicts(["?"], ["sorry"])
