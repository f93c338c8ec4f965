# SPDX-License-Identifier: Apache-2.0
"""Scores of refusal margins, against scikit-learn and a plain loop of resamples."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from hf_ckt.evaluation.scoring import refusal_margin as module
from hf_ckt.evaluation.scoring.refusal_margin import auroc, refusal_margin_scores

values = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=12)


@given(values, values)
@settings(max_examples=100, deadline=None, derandomize=True, database=None)
def test_auroc_is_scikit_learns(positive, negative):
    """Ties counted as wins make a model with one margin for everything look perfect."""
    expected = roc_auc_score([1] * len(positive) + [0] * len(negative), positive + negative)
    assert auroc(positive, negative) == pytest.approx(expected, abs=1e-12)
    assert auroc(negative, positive) == pytest.approx(1 - expected, abs=1e-12)


def test_auroc_of_one_kind_raises():
    """Of harmful prompts alone there is nothing to tell apart, and 0 or 1 would look like a result."""
    for sides in (([], [1.0]), ([1.0], [])):
        with pytest.raises(ValueError, match="needs values of both kinds"):
            auroc(*sides)


def test_refusal_margin_scores_by_hand():
    """A margin of the wrong kind, or an AUROC the wrong way round, reads as the opposite of what happened."""
    scores = refusal_margin_scores([2.0, -1.0, 1.0, -3.0, -1.0], ["harmful", "benign", "harmful", "benign", "harmful"])
    assert {name: score["value"] for name, score in scores.items()} == pytest.approx(
        # pairs (2, -1), (2, -3), (1, -1), (1, -3), (-1, -3) won, (-1, -1) tied
        {"refusal_margin_harmful": 2 / 3, "refusal_margin_benign": -2, "refusal_margin_auroc": 5.5 / 6}
    )
    assert [score["n"] for score in scores.values()] == [3, 2, 5]
    assert {*refusal_margin_scores([1.0, 2.0], ["harmful"] * 2)} == {"refusal_margin_harmful"}


@pytest.mark.parametrize("piece", [2_000_000, 60])
def test_refusal_margin_intervals_are_those_of_a_plain_loop(piece, monkeypatch):
    """Kinds drawn together would add the chance of how many of each there are, which was chosen."""
    monkeypatch.setattr(module, "_NUMBERS_AT_A_TIME", piece)
    generator = np.random.default_rng(0)
    harmful, benign = generator.normal(1, 2, 30).round(1), generator.normal(-1, 2, 20).round(1)
    means, areas = [], []
    for _ in range(1000):
        drawn = generator.choice(harmful, 30), generator.choice(benign, 20)
        means.append(drawn[0].mean())
        areas.append((1 + np.sign(drawn[0][:, None] - drawn[1]).mean()) / 2)
    scores = refusal_margin_scores([*harmful, *benign], ["harmful"] * 30 + ["benign"] * 20, draws=2000)
    score = scores["refusal_margin_harmful"]
    assert (score["low"], score["high"]) == pytest.approx(np.percentile(means, [2.5, 97.5]).tolist(), abs=0.1)
    score = scores["refusal_margin_auroc"]
    assert (score["low"], score["high"]) == pytest.approx(np.percentile(areas, [2.5, 97.5]).tolist(), abs=0.015)


def test_refusal_margin_scores_do_not_depend_on_the_order_of_prompts():
    """The same margins, read from another file, would have another interval."""
    generator = np.random.default_rng(0)
    margins, kinds = generator.normal(size=30), np.array(["harmful", "benign", "benign"] * 10)
    order = generator.permutation(30)
    shuffled = refusal_margin_scores(margins[order], kinds[order].tolist(), draws=100)
    assert shuffled == refusal_margin_scores(margins, kinds.tolist(), draws=100)


def test_refusal_margins_that_are_no_numbers_raise():
    """NaN compares false with everything: its prompt would lose every pair."""
    with pytest.raises(ValueError, match="margins: there are none"):
        refusal_margin_scores([], [])
    with pytest.raises(ValueError, match="margin: must be finite"):
        refusal_margin_scores([1.0, float("nan")], ["harmful", "benign"])
    with pytest.raises(ValueError, match=r"kind: unknown name 'harmfull'\. Did you mean 'harmful'"):
        refusal_margin_scores([1.0], ["harmfull"])
    with pytest.raises(ValueError, match=r"shorter|longer"):
        refusal_margin_scores([1.0, 2.0], ["harmful"])
