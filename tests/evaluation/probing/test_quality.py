# SPDX-License-Identifier: Apache-2.0
"""What is said of a probe: area, calibration and mistakes, against values by hand and by scikit-learn."""

import math

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score

from hf_ckt.evaluation.probing.quality import calibrate, calibration_error, measured, mistakes, nll
from hf_ckt.evaluation.probing.rows import ProbeRow


def row(name, harmful, kind=None, category="a", group=""):
    return ProbeRow(name, f"prompt {name}", harmful, kind or ("harmful" if harmful else "plain"), category, group)


def drawn(count, share=0.5, seed=0):
    """Log-odds and sides that are drawn by them."""
    rng = np.random.default_rng(seed)
    log_odds = rng.standard_normal(count) * 2 + math.log(share / (1 - share))
    return log_odds, rng.random(count) < 1 / (1 + np.exp(-log_odds))


def test_temperature_takes_back_what_made_scores_too_sure():
    """Odds that are five times too sure would route every row to one teacher."""
    log_odds, harmful = drawn(20_000)
    found = calibrate(5 * log_odds, harmful)
    assert found.temperature == pytest.approx(5, rel=0.05) and abs(found.shift) < 0.05
    assert nll(found(5 * log_odds), harmful) < nll(5 * log_odds, harmful)


def test_calibration_is_that_of_a_logistic_regression_without_penalty():
    """A search that stops beside the minimum leaves odds that are less right than they could be."""
    log_odds, harmful = drawn(5000, seed=1)
    scores = 3 * log_odds + 1
    expected = LogisticRegression(C=np.inf, tol=1e-8).fit(scores[:, None], harmful)
    found = calibrate(scores, harmful)
    # The sides that count less than certain make a difference of this size.
    np.testing.assert_allclose(found(scores), expected.decision_function(scores[:, None]), atol=0.05)


def test_scores_without_a_mistake_keep_finite_odds():
    """A probability of exactly 1 leaves the other teacher no say, and its log-odds are infinite."""
    scores, harmful = np.array([1.0, 2.0, 3.0, 4.0]), np.array([False, False, True, True])
    found = calibrate(scores, harmful)(scores)
    assert np.abs(found).max() < 10 and ((found > 0) == harmful).all()


def test_scores_that_are_the_wrong_way_round_stay_so():
    """A negative temperature would hide that the probe is worse than chance."""
    log_odds, harmful = drawn(500)
    assert calibrate(-log_odds, harmful).temperature > 0


def test_balanced_scores_of_a_rare_side_are_shifted():
    """Scores of balanced classes call a twentieth of harmful prompts a half."""
    log_odds, harmful = drawn(20_000, share=0.05)
    found = calibrate(log_odds - math.log(0.05 / 0.95), harmful)
    assert found.shift == pytest.approx(math.log(0.05 / 0.95), abs=0.15)
    assert found.temperature == pytest.approx(1, abs=0.05)


def test_figures_are_those_of_sklearn_and_by_hand():
    """A table whose area is that of another comparison misleads whoever chooses by it."""
    rng = np.random.default_rng(2)
    rows = [row(f"h{n}", True) for n in range(30)]
    rows += [row(f"t{n}", False, "twin", group=f"h{n % 30}") for n in range(40)] + [
        row(f"p{n}", False) for n in range(20)
    ]
    log_odds = np.concatenate([rng.normal(1, 1, 30), rng.normal(-0.5, 1, 40), rng.normal(-2, 1, 20)])
    harmful = np.array([one.harmful for one in rows])
    found = measured(log_odds, rows)
    p = 1 / (1 + np.exp(-log_odds))
    assert found["auroc"] == pytest.approx(roc_auc_score(harmful[:70], log_odds[:70]))
    assert found["auroc_all_benign"] == pytest.approx(roc_auc_score(harmful, log_odds))
    assert found["nll"] == pytest.approx(log_loss(harmful, p))
    assert found["accuracy"]["plain"] == {"n": 20, "right": int((log_odds[70:] <= 0).sum())}
    low, high = found["auroc_interval"]
    assert 0.5 < low < found["auroc"] < high < 1


def test_calibration_error_is_that_by_hand():
    """Bins that are added up without their sizes would make one odd prompt the whole error."""
    p = np.array([0.91, 0.95, 0.15, 0.15])
    # Bin of the first two: |0.93 - 0.5|, half of the prompts; of the others |0.15 - 0|.
    error = calibration_error(np.log(p / (1 - p)), np.array([True, False, False, False]))
    assert error == pytest.approx(0.5 * 0.43 + 0.5 * 0.15)


def test_mistakes_are_counted_and_named():
    """A probe is only as good as its worst category, which a single figure hides."""
    rows = [
        row("a", True, category="weapons"),
        row("b", True, category="weapons"),
        row("c", False, "twin", "sport"),
        row("d", False, "plain", "cooking"),
    ]
    found = mistakes(np.array([-0.5, 2.0, 3.0, -1.0]), rows)
    assert found["by_category"] == [
        {"kind": "harmful", "category": "weapons", "n": 2, "wrong": 1},
        {"kind": "twin", "category": "sport", "n": 1, "wrong": 1},
    ]
    assert [one["id"] for one in found["worst"]] == ["c", "a"]


def test_without_twins_all_benign_prompts_are_compared():
    """Own rows may know no twins; an area over none of them would fail."""
    rows = [row("a", True), row("b", False), row("c", False)]
    assert measured(np.array([0.5, 1.0, -1.0]), rows)["auroc"] == 0.5
