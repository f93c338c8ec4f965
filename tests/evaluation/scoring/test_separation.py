# SPDX-License-Identifier: Apache-2.0
"""How well a model's own numbers set the kinds apart: against scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from hf_ckt.evaluation.scoring.compared import score_models
from tests.evaluation.verdicts import row

numbers = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=12)


def plain(harmful, benign, column="log_odds"):
    rows = [row("direct", f"h/{n}", False, **{column: value}) for n, value in enumerate(harmful)]
    return rows + [row("overrefusal", f"b/{n}", False, **{column: value}) for n, value in enumerate(benign)]


def scored(rows, **settings):
    return score_models({"a": rows}, **settings)["a"].scores


@given(numbers, numbers)
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
def test_areas_are_scikit_learns(harmful, benign):
    """Ties counted as wins make a model with one value for everything look perfect."""
    expected = roc_auc_score([1] * len(harmful) + [0] * len(benign), harmful + benign)
    for column, name in (("log_odds", "refusal_auroc"), ("margin", "refusal_margin_auroc")):
        score = scored(plain(harmful, benign, column), draws=50)[name]
        assert score["value"] == pytest.approx(expected, abs=1e-12) and score["n"] == len(harmful) + len(benign)


def test_log_odds_by_hand():
    """Log-odds of the wrong kind, or an area the wrong way round, read as the opposite of what happened."""
    scores = scored(plain([2.0, 1.0, -1.0], [-1.0, -3.0]))
    # pairs (2, -1), (2, -3), (1, -1), (1, -3), (-1, -3) won, (-1, -1) tied
    assert scores["refusal_auroc"]["value"] == pytest.approx(5.5 / 6)
    assert scores["refusal_log_odds_harmful"]["value"] == pytest.approx(2 / 3)
    assert scores["refusal_log_odds_benign"]["value"] == -2 and scores["refusal_log_odds_benign"]["n"] == 2
    assert {*scored(plain([1.0, 2.0], []))} & {"refusal_auroc", "refusal_log_odds_benign"} == set()


def test_areas_under_templates_and_noise_are_of_their_own_rows():
    """Clean prompts in the area under noise, or plain ones in that under templates, hide what both do."""
    rng = np.random.default_rng(0)
    rows, found = [], {"jailbreak": ([], []), "noise": ([], [])}
    for kind in ("harmful", "benign"):
        for n in range(6):
            for way in range(3):
                for suite in ("jailbreak", "noise"):
                    value = round(rng.normal(), 1)
                    place = {"template": f"t{way}"} if suite == "jailbreak" else {"corruption": f"c{way}"}
                    rows.append(row(suite, f"{n}", False, kind=kind, log_odds=value, **place))
                    found[suite][kind == "harmful"].append(value)
            rows.append(row("noise", f"{n}", False, kind=kind, log_odds=100.0))  # clean
    scores = scored(rows)
    for suite, (benign, harmful) in found.items():
        expected = roc_auc_score([0] * len(benign) + [1] * len(harmful), benign + harmful)
        assert scores[f"refusal_auroc_{suite}"]["value"] == pytest.approx(expected)
        assert scores[f"refusal_auroc_{suite}"]["n"] == 12


@pytest.mark.parametrize("missing", [None, float("nan"), float("inf"), float("-inf")])
def test_prompts_that_were_not_measured_are_left_out(missing):
    """None read as 0 would be a value in the middle of all others; what an overflow leaves would be above or below all."""
    rows = plain([2.0, 1.0], [0.0, -1.0])
    found = score_models({"a": [*rows, *plain([missing], [missing])]}, draws=50)["a"]
    assert found.scores["refusal_auroc"]["n"] == 4 and found.scores["refusal_auroc"]["value"] == 1
    assert found.scores["refusal_log_odds_harmful"]["value"] == 1.5
    assert found.curve == score_models({"a": rows}, draws=50)["a"].curve
