# SPDX-License-Identifier: Apache-2.0
"""All models at once: policies that are blind to what is asked, an oracle, and models against each other."""

import random

import numpy as np
import pytest

from hf_ckt.evaluation.scoring.compared import score_models
from hf_ckt.evaluation.scoring.scores import SCORES
from tests.evaluation.verdicts import row

SHARES = (0.0, 0.3, 0.5, 1.0)


def policy(refuses, log_odds, right, prompts=40):
    """
    Rows of every suite that verdicts and log-odds are of, for a model that is given by three functions: whether it refuses
    a prompt of a kind, its log-odds, and whether it answers a question right.
    """
    rows = []
    for kind, suite in (("harmful", "direct"), ("benign", "overrefusal")):
        for n in range(prompts):
            asked = {"kind": kind, "set": "mine"}

            def measured(kind=kind):
                value = log_odds(kind)
                found = dict.fromkeys(("log_odds", "margin", "probe_log_odds"), value)
                return {**found, "refused": refuses(kind)}

            rows.append(row(suite, f"{n}", **asked | measured()))
            rows += [
                row("jailbreak", f"{n}", **asked | measured(), template=f"t{way}")
                for way in range(6)
                if n < prompts // 2
            ]
            for corruption in ("", "typos", "swap"):
                found = measured() | {"token_consistency": 1.0 if corruption else None}
                rows.append(row("noise", f"{n}", **asked | found, corruption=corruption, severity=0.1))
    questions = {"kind": "question", "options": 4}
    return rows + [
        row("utility", f"q/{n}", None, **questions, set=name, correct=right(n))
        for name in ("multiple_choice", "word_problems")
        for n in range(100)
    ]


def blind(share, seed=0):
    rng = random.Random(f"{share}:{seed}")
    return policy(lambda kind: rng.random() < share, lambda kind: rng.gauss(0, 1), lambda n: n % 4 == 0)


ORACLE = policy(lambda kind: kind == "harmful", lambda kind: 1.0 if kind == "harmful" else -1.0, lambda n: True)
# What a blind policy comes to, by its share.
CHANCE = {
    **{name: (lambda p: 0.0) for name, nature in SCORES.items() if nature.chance == 0},
    **{name: (lambda p: 0.5) for name, nature in SCORES.items() if nature.chance == 0.5},
    "oss": lambda p: 200 * p * (1 - p),
    "safety": lambda p: p,
    "helpfulness": lambda p: 1 - p,
    **dict.fromkeys(("attack_success_direct", "attack_success_jailbreak"), lambda p: 1 - p),
    **dict.fromkeys(("overrefusal", "overrefusal_jailbreak"), lambda p: p),
    **dict.fromkeys(("noisy_refusal_harmful", "noisy_refusal_benign"), lambda p: p),
    **dict.fromkeys((name for name in SCORES if "_flipped_" in name), lambda p: p * (1 - p)),
    "multiple_choice": lambda p: 0.25,
}
PERFECT = {
    **dict.fromkeys((name for name, nature in SCORES.items() if nature.chance == 0.5), 1.0),
    **dict.fromkeys(("youden_j", "youden_j_direct", "youden_j_jailbreak", "youden_j_noise"), 1.0),
    **dict.fromkeys(("safety", "helpfulness", "noisy_refusal_harmful", "token_consistency"), 1.0),
    **dict.fromkeys(("multiple_choice", "word_problems"), 1.0),
    **{"oss": 100.0, "multiple_choice_over_chance": 75.0, "youden_j_noise_difference": 0.0},
    **dict.fromkeys(
        ("attack_success_direct", "attack_success_jailbreak", "overrefusal", "overrefusal_jailbreak"), 0.0
    ),
    **dict.fromkeys((name for name in SCORES if "_flipped_" in name), 0.0),
    **dict.fromkeys(("noisy_refusal_benign", "degenerate"), 0.0),
    **{"refusal_log_odds_harmful": 1.0, "refusal_log_odds_benign": -1.0},
}
SCORED = score_models({**{f"blind {share}": blind(share) for share in SHARES}, "oracle": ORACLE}, draws=2_000)


@pytest.mark.parametrize("share", SHARES)
def test_a_blind_policy_scores_what_chance_does(share):
    """A number that is read as safety has to be nothing for a model that does not look at what it is asked."""
    scores = SCORED[f"blind {share}"].scores
    assert {name for name in scores if name in CHANCE} == {*CHANCE}
    for name, expected in CHANCE.items():
        # Fixed draws: of a true 95 % one interval in twenty misses, so that a little beside it counts as well.
        slack = 0.25 * (scores[name]["high"] - scores[name]["low"])
        assert scores[name]["low"] - slack <= expected(share) <= scores[name]["high"] + slack, name
    if share in (0.0, 1.0):
        assert scores["youden_j"]["value"] == scores["youden_j_noise"]["value"] == scores["oss"]["value"] == 0
    assert scores["youden_j"]["low"] <= 0 <= scores["youden_j"]["high"]
    assert scores["youden_j_noise"]["low"] <= 0 <= scores["youden_j_noise"]["high"]


def test_the_oracle_scores_all():
    """A scale whose end cannot be reached makes the best model look middling."""
    scores = SCORED["oracle"].scores
    assert {name: score["value"] for name, score in scores.items()} == pytest.approx(PERFECT)
    for name, value in PERFECT.items():
        bounds = scores[name]["low"], scores[name]["high"]
        if name.startswith("refusal_log_odds"):
            assert bounds == (None, None)  # all the same, and no bounds of what they could be
        else:
            assert bounds[0] <= value <= bounds[1] and bounds[0] < bounds[1], name


def test_no_interval_is_a_point():
    """[100, 100] of 40 prompts says that the next one is certain."""
    for found in SCORED.values():
        for name, score in found.scores.items():
            if score["low"] is not None:
                assert score["high"] - score["low"] > (0.5 if name == "oss" else 0.005), name
        for cell in found.noise:
            for score in (cell["youden_j"], cell["harmful_refused"], cell["benign_refused"]):
                assert score["low"] < score["high"]
        for differences in found.against.values():
            for name, difference in differences.items():
                assert difference["low"] <= difference["difference"] <= difference["high"], name
                assert difference["low"] < difference["high"], name


def test_every_model_is_compared_with_those_before_it():
    """The package's question is the full objective against plain fine-tuning, and not each against the base."""
    names = list(SCORED)
    for at, name in enumerate(names):
        assert list(SCORED[name].against) == names[:at]
    found = SCORED["oracle"].against["blind 0.5"]
    own, other = (SCORED[name].scores for name in ("oracle", "blind 0.5"))
    for name in own.keys() - {"degenerate"}:
        assert found[name]["difference"] == pytest.approx(own[name]["value"] - other[name]["value"], abs=1e-9)
    assert found["youden_j"]["low"] > 0.5


def test_models_without_a_difference_have_one_that_holds_nothing_certain():
    """Two adapters that answer 40 prompts alike may differ on the next."""
    found = score_models({"a": ORACLE, "b": ORACLE}, draws=500)["b"].against["a"]
    assert found["youden_j"]["difference"] == 0 and found["youden_j"]["low"] < -0.01 < 0.01 < found["youden_j"]["high"]


def test_paired_differences_are_those_of_an_independent_calculation():
    """Unpaired, what makes a prompt hard hides a model that is better on every one of them."""
    rng = np.random.default_rng(0)
    hard = rng.normal(size=400)
    answers = {name: hard + 0.5 * rng.normal(size=400) + gain > 0 for name, gain in (("a", 0.0), ("b", 0.3))}
    rows = {
        name: [row("direct", f"{n}", bool(one)) for n, one in enumerate(refused)] for name, refused in answers.items()
    }
    found = score_models(rows)["b"].against["a"]["safety"]
    changed = answers["b"].astype(int) - answers["a"]
    half = 1.96 * changed.std(ddof=1) / 20  # of a mean of differences, prompt by prompt
    assert found["difference"] == pytest.approx(changed.mean())
    assert (found["low"], found["high"]) == pytest.approx((changed.mean() - half, changed.mean() + half), abs=0.008)


def test_differences_are_of_what_both_were_asked():
    """Prompts that only one model was asked make it look better or worse by their difficulty."""
    easy = [row("direct", f"{n}", True) for n in range(40)]
    hard = [row("direct", f"{n}", n % 2 == 0) for n in range(40, 80)]
    found = score_models({"a": easy + hard, "b": hard, "c": easy, "d": [one | {"set": "other"} for one in easy]})
    assert found["b"].against["a"]["safety"]["difference"] == 0
    assert found["b"].scores["safety"]["value"] - found["a"].scores["safety"]["value"] == pytest.approx(-0.25)
    assert "b" not in found["c"].against and found["d"].against == {}


def test_models_without_a_noisy_prompt_in_common_have_no_difference_under_noise():
    """All scores would be lost over a pair that cannot be compared."""
    rows = {
        name: [one for one in ORACLE if one["corruption"] in ("", corruption)]
        for name, corruption in (("a", "typos"), ("b", "swap"))
    }
    found = score_models(rows, draws=50)["b"]
    assert found.scores["youden_j_noise"]["value"] == 1
    assert "youden_j" in found.against["a"] and "youden_j_noise" not in found.against["a"]


def test_a_models_numbers_do_not_depend_on_those_listed_after_it():
    """The base's interval would change with every adapter that is compared with it."""
    alone = score_models({"a": blind(0.5)}, draws=500)["a"]
    beside = score_models({"a": blind(0.5), "b": ORACLE}, draws=500)["a"]
    assert alone.scores.keys() == beside.scores.keys()
    for name, score in alone.scores.items():
        for bound in ("value", "low", "high"):
            assert beside.scores[name][bound] == pytest.approx(score[bound], abs=0.02 if name != "oss" else 2), name


def test_every_score_of_verdicts_and_rows_is_known():
    """A score without a nature has no chance value on the page, and no bounds."""
    agreement = {"kd_alignment", "kd_alignment_noise", "top1_agreement", "top10_overlap", "kl", "jsd", "gap_closed"}
    agreement |= {"calibration_error", "base_agreement", "base_agreement_noise", "plain_text_nats"}
    assert SCORED["oracle"].scores.keys() == SCORES.keys() - agreement
