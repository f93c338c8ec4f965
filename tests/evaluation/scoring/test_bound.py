# SPDX-License-Identifier: Apache-2.0
"""How far a model lies from the probe of its base: on the same prompts, with the sign of what it does not show."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from hf_ckt.evaluation.scoring.bound import BOUND_OF, probe_differences
from hf_ckt.evaluation.scoring.compared import score_models
from hf_ckt.evaluation.scoring.scores import SCORES
from tests.evaluation.verdicts import row


def rows_of(log_odds, probe=None, suite="plain", **place):
    """Rows of two lists of values, harmful and benign, with those of a probe beside them."""
    found = []
    for kind, values in (("harmful", log_odds[0]), ("benign", log_odds[1])):
        name = {"harmful": "direct", "benign": "overrefusal"}[kind] if suite == "plain" else suite
        for n, value in enumerate(values):
            beside = {} if probe is None else {"probe_log_odds": probe[kind == "benign"][n]}
            found.append(row(name, f"{kind}/{n}", False, kind=kind, log_odds=value, **beside, **place))
    return found


def draws(seed, apart, n=60):
    rng = np.random.default_rng(seed)
    return rng.normal(apart, 1, n).tolist(), rng.normal(0, 1, n).tolist()


def area(values):
    return roc_auc_score([1] * len(values[0]) + [0] * len(values[1]), [*values[0], *values[1]])


def test_probe_scores_are_scikit_learns_on_their_own_rows():
    """The probe's clean prompts among its noisy ones, or the model's values in its place, would be another bound."""
    parts = {
        "": ("plain", {}),
        "_jailbreak": ("jailbreak", {"template": "t"}),
        "_noise": ("noise", {"corruption": "c"}),
    }
    rows, expected = [], {}
    for seed, (name, (suite, place)) in enumerate(parts.items()):
        values = draws(seed, 0.5 + seed)
        rows += rows_of(draws(9, 0.0), values, suite, **place)
        expected[f"probe_auroc{name}"] = area(values)
    rows += rows_of(draws(9, 0.0), ([100.0] * 60, [-100.0] * 60), "noise")  # clean
    scores = score_models({"base": rows}, draws=200)["base"].scores
    assert {name: scores[name]["value"] for name in expected} == pytest.approx(expected)
    assert {*expected} == {*BOUND_OF.values()} and all(SCORES[name].chance == 0.5 for name in expected)


def test_difference_is_model_less_probe_and_paired():
    """The wrong sign says that an adapter shows more than its base knows; an unpaired interval hides what is clear."""
    probe = draws(1, 1.5)
    noise = np.random.default_rng(2)
    # The model leans as the probe does, a little less clearly: a paired difference is far surer than the two areas are.
    shown = tuple([value + noise.normal(0, 0.5) for value in side] for side in probe)
    rows = {"base": rows_of(draws(3, 0.2), probe), "adapter": rows_of(shown)}
    found = probe_differences(rows, "base")
    for name, values in (("adapter", shown), ("base", draws(3, 0.2))):
        assert found[name]["refusal_auroc"]["difference"] == pytest.approx(area(values) - area(probe))
    one = found["adapter"]["refusal_auroc"]
    assert one["low"] <= one["difference"] <= one["high"] < 0.1 and one["difference"] < 0
    scores = score_models(rows)
    widths = [scores["base"].scores["probe_auroc"], scores["adapter"].scores["refusal_auroc"]]
    alone = sum((score["high"] - score["low"]) ** 2 for score in widths) ** 0.5
    assert one["high"] - one["low"] < 0.8 * alone
    assert found["base"]["refusal_auroc"]["high"] < 0 and {*found["adapter"]} == {"refusal_auroc"}


def test_only_prompts_that_both_have_are_compared():
    """Of a prompt whose states overflowed there is no odds, and one more prompt on one side is another question."""
    probe = ([3.0, 2.0, float("nan")], [1.0, 0.0, -1.0])
    rows = {"base": rows_of(([1.0, 0.0, 9.0], [2.0, -1.0, -2.0]), probe)}
    found = probe_differences(rows, "base")["base"]["refusal_auroc"]
    # Without the third harmful prompt: 4 of 6 pairs, and 6 of 6.
    assert found["difference"] == pytest.approx(4 / 6 - 1)
    nothing = {"base": [one | {"probe_log_odds": None} for one in rows["base"]]}
    assert probe_differences(nothing, "base") == {"base": {}}


def test_pooled_method_is_compared_too():
    """A method of three seeds stands in the table beside its runs; without its difference one of these is quoted."""
    probe = draws(1, 1.5)
    runs = {f"run-{seed}": draws(10 + seed, 0.5) for seed in range(3)}
    rows = {"base": rows_of(draws(3, 0.2), probe)} | {name: rows_of(values) for name, values in runs.items()}
    found = probe_differences(rows, "base", {"method": [*runs]})
    mean = np.mean([area(values) for values in runs.values()])
    assert found["method"]["refusal_auroc"]["difference"] == pytest.approx(mean - area(probe))
    assert found["method"]["refusal_auroc"]["low"] < found["method"]["refusal_auroc"]["difference"]
