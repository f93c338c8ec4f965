# SPDX-License-Identifier: Apache-2.0
"""Scores as results files hold them."""

import json

import numpy as np
import pytest
from scipy import stats

from hf_ckt.evaluation.scoring.scores import drawn_difference, drawn_score, rate_score, require_verdicts


def test_rate_score_is_a_rate_with_scipys_wilson_interval():
    """Bounds of another rate than the value beside them."""
    score = rate_score([True] * 7 + [False] * 13)
    theirs = stats.binomtest(7, 20).proportion_ci(method="wilson")
    assert score == {
        "value": 0.35,
        "low": pytest.approx(theirs.low),
        "high": pytest.approx(theirs.high),
        "n": 20,
        "interval": "wilson",
    }
    with pytest.raises(ValueError, match="count: must be 1 or more"):
        rate_score([])


def test_drawn_score_is_undefined_where_its_value_is():
    """NaN is no JSON, and a browser that reads the file would stop at it."""
    score = drawn_score("kl", float("nan"), np.full(5, np.nan), 3, "bootstrap")
    assert score == {"value": None, "low": None, "high": None, "n": 3, "interval": None}
    score = drawn_score("kl", np.float64(0.5), np.array([0.4, 0.5, np.nan]), 3, "bootstrap")
    json.dumps(score, allow_nan=False)
    assert score["dropped"] == 1


def test_drawn_score_of_one_cluster_has_no_interval():
    """Resamples of a single prompt are all the same: an interval of width 0 would call it certain."""
    score = drawn_score("kd_alignment", 0.5, np.full(5, 0.5), 1, "bootstrap")
    assert score == {"value": 0.5, "low": None, "high": None, "n": 1, "interval": None}


def test_draws_that_are_all_the_same_are_no_interval_of_width_0():
    """Of a share, Wilson says what else it may be; of a number without bounds nobody can."""
    share = drawn_score("kd_alignment", 1.0, np.ones(9), 30, "bootstrap")
    theirs = stats.binomtest(30, 30).proportion_ci(method="wilson")
    assert (share["low"], share["high"]) == pytest.approx((theirs.low, 1))
    assert drawn_score("kl", 0.0, np.zeros(9), 30, "bootstrap")["interval"] is None
    difference = drawn_difference("kd_alignment", 0.0, np.zeros(9), 30, "bootstrap")
    assert difference["low"] == pytest.approx(theirs.low - 1) and difference["high"] == pytest.approx(1 - theirs.low)
    assert drawn_difference("kl", 0.0, np.zeros(9), 30, "bootstrap") is None


def test_intervals_hold_what_was_found():
    """Skewed draws can lie on one side of the value, and the table would contradict itself."""
    score = drawn_score("calibration_error", 0.1, np.linspace(0.2, 0.3, 50), 20, "bootstrap")
    assert score["low"] == 0.1 and drawn_difference("kl", 2.0, np.linspace(0, 1, 50), 20, "bootstrap")["high"] == 2


def test_rows_without_a_verdict_raise():
    """None is false: an answer that was never judged would count as an attack that succeeded."""
    row = {"prompt_id": "a/1", "refused": True, "degenerate": False}
    require_verdicts([row])
    for missing in ({"refused": None}, {"degenerate": None}):
        with pytest.raises(ValueError, match="'a/1' has no verdict"):
            require_verdicts([row, row | missing])
    with pytest.raises(ValueError, match="rows: there are none"):
        require_verdicts([])
