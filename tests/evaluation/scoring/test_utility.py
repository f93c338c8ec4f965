# SPDX-License-Identifier: Apache-2.0
"""Utility: accuracy over chance, word problems, nats on plain text."""

import pytest
from scipy import stats

from hf_ckt.evaluation.scoring.compared import score_models
from hf_ckt.evaluation.scoring.pooled import pooled_scores
from tests.evaluation.verdicts import row


def question(number, correct, options=4, name="multiple_choice"):
    return row("utility", f"q/{number}", None, set=name, kind="question", correct=correct, options=options)


def test_accuracy_is_over_the_chance_of_each_question():
    """0.30 right of four options is next to nothing, and of twenty a lot; 0.30 against 0.29 was called 1.03."""
    rows = [question(n, n < 6, 4 if n < 10 else 2) for n in range(20)]
    scores = score_models({"a": rows})["a"].scores
    assert scores["multiple_choice"]["value"] == 0.3
    theirs = stats.binomtest(6, 20).proportion_ci(method="wilson")
    found = scores["multiple_choice"]
    assert (found["low"], found["high"], found["interval"]) == (
        pytest.approx(theirs.low),
        pytest.approx(theirs.high),
        "wilson",
    )
    over = scores["multiple_choice_over_chance"]
    assert over["value"] == pytest.approx(100 * (0.3 - (0.25 + 0.5) / 2))
    assert (over["low"], over["high"]) == pytest.approx(
        (100 * (theirs.low - 0.375), 100 * (theirs.high - 0.375)), abs=1.5
    )


def test_word_problems_have_no_chance():
    """A number out of all numbers is not guessed."""
    rows = [question(n, n < 5, None, "word_problems") for n in range(10)]
    assert {*score_models({"a": rows})["a"].scores} == {"word_problems"}


def test_plain_text_weighs_tokens_the_same():
    """A mean of passages' means would weigh a heading like a page."""
    rows = [
        row("utility", f"p/{n}", None, set="plain_text", kind="question", nats=nats, tokens=tokens)
        for n, (nats, tokens) in enumerate([(2.0, 10), (3.0, 30), (5.0, 60)])
    ]
    score = score_models({"a": rows})["a"].scores["plain_text_nats"]
    assert score["value"] == pytest.approx((2 * 10 + 3 * 30 + 5 * 60) / 100) and score["n"] == 3
    assert score["interval"] == "bootstrap" and score["low"] < score["value"] < score["high"]


def test_plain_text_of_other_tokens_is_not_compared():
    """Nats a token fall as a vocabulary gets smaller, and the model with the longer texts would be the better one."""
    base = [
        row("utility", f"p/{n}", None, set="plain_text", kind="question", nats=2 + n / 10, tokens=50) for n in range(8)
    ]
    other = [one | {"nats": one["nats"] / 2, "tokens": 100 - (n == 0) * 50} for n, one in enumerate(base)]
    third = [one | {"nats": one["nats"] - n / 100} for n, one in enumerate(other)]
    found = score_models({"base": base, "a": other, "b": third})
    assert not found["a"].against and found["b"].against.keys() == {"a"}
    assert all("plain_text_nats" in one.scores for one in found.values())
    pooled = pooled_scores({"base": base, "a": other, "b": third}, {"both": ["a", "b"]})
    assert not pooled["both"]["against"] and "plain_text_nats" in pooled["both"]["scores"]


def test_plain_text_is_paired_with_the_base():
    """Passages differ by far more than two models do on each."""
    base = [
        row("utility", f"p/{n}", None, set="plain_text", kind="question", nats=2 + n / 10, tokens=50)
        for n in range(40)
    ]
    better = [one | {"nats": one["nats"] - 0.1 - (n % 2) / 100} for n, one in enumerate(base)]
    found = score_models({"base": base, "a": better})["a"].against["base"]["plain_text_nats"]
    assert found["difference"] == pytest.approx(-0.105) and -0.11 < found["low"] < found["high"] < -0.1
