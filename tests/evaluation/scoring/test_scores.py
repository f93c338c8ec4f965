# SPDX-License-Identifier: Apache-2.0
"""Scores as results files hold them."""

import json

import numpy as np
import pytest
from scipy import stats

from hf_ckt.evaluation.scoring.scores import bootstrap_score, rate_score, require_verdicts


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


def test_bootstrap_score_is_undefined_where_its_value_is():
    """NaN is no JSON, and a browser that reads the file would stop at it."""
    score = bootstrap_score(float("nan"), np.full(5, np.nan), 3)
    assert score == {"value": None, "low": None, "high": None, "n": 3, "interval": None}
    json.dumps(bootstrap_score(np.float64(0.5), np.array([0.5, np.nan]), 3), allow_nan=False)


def test_bootstrap_score_of_one_cluster_has_no_interval():
    """Resamples of a single prompt are all the same: an interval of width 0 would call it certain."""
    score = bootstrap_score(0.5, np.full(5, 0.5), 1)
    assert score == {"value": 0.5, "low": None, "high": None, "n": 1, "interval": None}


def test_rows_without_a_verdict_raise():
    """None is false: an answer that was never judged would count as an attack that succeeded."""
    row = {"prompt_id": "a/1", "refused": True, "degenerate": False}
    require_verdicts([row])
    for missing in ({"refused": None}, {"degenerate": None}):
        with pytest.raises(ValueError, match="'a/1' has no verdict"):
            require_verdicts([row, row | missing])
    with pytest.raises(ValueError, match="rows: there are none"):
        require_verdicts([])
