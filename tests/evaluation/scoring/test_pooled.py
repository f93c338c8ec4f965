# SPDX-License-Identifier: Apache-2.0
"""Several training runs of a method as one."""

import random
import statistics

import pytest
import torch

from hf_ckt.evaluation.scoring.alignment import tile_record
from hf_ckt.evaluation.scoring.compared import score_models
from hf_ckt.evaluation.scoring.pooled import pooled_scores
from tests.evaluation.verdicts import row


def run(safe, over, seed, prompts=60):
    """A model that refuses these shares; prompts are as hard for each."""
    rng, own = random.Random("prompts"), random.Random(seed)
    rows = []
    for suite, share in (("direct", safe), ("overrefusal", over)):
        for n in range(prompts):
            refused = rng.random() < share if own.random() < 0.8 else own.random() < share
            rows.append(row(suite, f"{suite}/{n}", refused, log_odds=own.gauss(refused, 1)))
    return rows


ROWS = {
    "base": run(0.1, 0.05, 9),
    **{f"sft {seed}": run(0.7, 0.3, seed) for seed in range(3)},
    **{f"full {seed}": run(0.6 + seed / 10, 0.2, 10 + seed) for seed in range(3)},
}
METHODS = {"sft": [f"sft {seed}" for seed in range(3)], "full": [f"full {seed}" for seed in range(3)]}
EACH = score_models(ROWS, draws=2_000)
POOLED = pooled_scores(ROWS, METHODS, draws=2_000)


def test_pooled_scores_are_the_mean_of_the_runs():
    """Rates of all answers together are no mean of OSS, and areas over runs compare one run's values with another's."""
    for method, found in POOLED.items():
        assert found["runs"] == METHODS[method] and found["scores"].keys() == EACH["base"].scores.keys()
        for name, score in found["scores"].items():
            values = [EACH[one].scores[name]["value"] for one in METHODS[method]]
            assert score["value"] == pytest.approx(statistics.fmean(values), abs=1e-9), name
            assert score["low"] < score["value"] < score["high"] or name == "degenerate"
    assert POOLED["sft"]["scores"]["youden_j"]["n"] == 120


def test_methods_are_compared_with_models_that_are_no_run_and_with_methods_before_them():
    """A method against its own runs is a comparison with itself."""
    assert list(POOLED["sft"]["against"]) == ["base"] and list(POOLED["full"]["against"]) == ["base", "sft"]
    for name, found in POOLED["full"]["against"]["sft"].items():
        expected = POOLED["full"]["scores"][name]["value"] - POOLED["sft"]["scores"][name]["value"]
        assert found["difference"] == pytest.approx(expected, abs=1e-9) and found["low"] < expected < found["high"]
    assert POOLED["full"]["against"]["base"]["youden_j"]["low"] > 0


def test_runs_that_differ_make_the_interval_wide():
    """Of three adapters, each measured on 600 prompts, a method is known from three values and not from 1,800."""
    alike = {f"{seed}": run(0.7, 0.2, seed, prompts=600) for seed in range(3)}
    apart = {f"{seed}": run(0.5 + seed / 5, 0.2, seed, prompts=600) for seed in range(3)}
    widths = []
    for rows in (alike, apart):
        found = pooled_scores(rows, {"method": list(rows)}, draws=4_000)["method"]["scores"]["safety"]
        widths.append(found["high"] - found["low"])
    assert widths[1] > 4 * widths[0]
    # t of 2 degrees of freedom times the standard error of three values: 0.5, 0.7 and 0.9 are 0.5 each way, cut at 1.
    values = [score_models({"a": rows}, draws=10)["a"].scores["safety"]["value"] for rows in apart.values()]
    half = 4.303 * statistics.stdev(values) / 3**0.5
    assert found["low"] == pytest.approx(statistics.fmean(values) - half, abs=0.1) and found["high"] == 1


def test_runs_of_the_same_answers_say_no_more_about_prompts_than_one():
    """Five copies of a run are not five times as many prompts."""
    rows = {f"{copy}": run(0.7, 0.2, 0) for copy in range(5)}
    pooled = pooled_scores(rows, {"method": list(rows)}, draws=4_000)["method"]["scores"]["youden_j"]
    one = score_models({"a": rows["0"]}, draws=4_000)["a"].scores["youden_j"]
    assert (pooled["low"], pooled["high"]) == pytest.approx((one["low"], one["high"]), abs=0.04)


def test_runs_that_refuse_everything_are_not_certain():
    """[1, 1] of three runs says that the next prompt is certain."""
    rows = {f"{seed}": [one | {"refused": True} for one in ROWS["base"]] for seed in range(3)}
    found = pooled_scores(rows, {"method": list(rows)}, draws=1_000)["method"]["scores"]
    assert found["safety"]["value"] == found["safety"]["high"] == 1 and found["safety"]["low"] < 0.99
    assert found["youden_j"]["low"] < 0 == found["youden_j"]["value"] < found["youden_j"]["high"]


@pytest.mark.parametrize("lacking", [1, 2])
def test_score_that_a_run_lacks_is_not_that_of_the_method(lacking):
    """The one run that has it would stand there as three, with the interval of one."""
    without = [f"full {seed}" for seed in range(lacking)]
    rows = {
        name: [one | {"log_odds": None} for one in mine] if name in without else mine for name, mine in ROWS.items()
    }
    found = pooled_scores(rows, METHODS, draws=200)
    assert "refusal_auroc" in found["sft"]["scores"] and "youden_j" in found["full"]["scores"]
    assert "refusal_auroc" not in found["full"]["scores"]
    assert all("youden_j" in those and "refusal_auroc" not in those for those in found["full"]["against"].values())


def test_kind_that_a_run_was_not_asked_is_not_pooled():
    """Without the harmless prompts of one run, J of the method would be that of the others."""
    rows = ROWS | {"full 0": [one for one in ROWS["full 0"] if one["kind"] == "harmful"]}
    found = pooled_scores(rows, METHODS, draws=200)["full"]
    assert "safety" in found["scores"] and not {"youden_j", "helpfulness", "refusal_auroc"} & {*found["scores"]}
    assert "safety" in found["against"]["base"] and "youden_j" not in found["against"]["base"]


def test_agreement_is_pooled_as_well():
    """The responses are the same for all runs, and their ids say so."""
    generator = torch.Generator().manual_seed(0)
    teacher = [torch.randn(12, 9, generator=generator) for _ in range(20)]
    records = {
        f"{seed}": [
            tile_record(logits + torch.randn(12, 9, generator=generator) * (1 + seed / 4), logits) | {"id": f"r{n}"}
            for n, logits in enumerate(teacher)
        ]
        for seed in range(3)
    }
    rows = {name: [] for name in records}
    found = pooled_scores(rows, {"method": list(rows)}, records=records, draws=500)["method"]["scores"]
    values = [
        sum(one["sums"]["acceptance"] for one in mine) / sum(one["tokens"] for one in mine)
        for mine in records.values()
    ]
    assert found["kd_alignment"]["value"] == pytest.approx(statistics.fmean(values)) and found["kl"]["n"] == 20
    assert found["kd_alignment"]["low"] < min(values) and found["kd_alignment"]["high"] > max(values)


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("undefined", [1, 2])
def test_score_that_is_undefined_of_a_run_is_undefined_of_the_method(undefined):
    """A gap to a teacher that the base already equals has no size, and a mean over the other runs is no mean of all."""
    logits = torch.randn(2, 9, 5, generator=torch.Generator().manual_seed(0))
    records = {}
    for seed in range(2):
        base = logits[0] if seed < undefined else logits[1]
        record = tile_record(logits[0] + logits[1] / (2 + seed), logits[0], base)
        records[f"{seed}"] = [record | {"id": f"{n}"} for n in range(3)]
    found = pooled_scores({name: [] for name in records}, {"method": [*records]}, records=records, draws=50)
    scores = found["method"]["scores"]
    assert scores["gap_closed"]["value"] is scores["gap_closed"]["low"] is None and scores["kl"]["value"] > 0


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ({"sft": ["sft 0"]}, "runs of sft: must be 2 or more"),
        ({"sft": ["sft 0", "sft 0"]}, "runs of sft: must be 2 or more"),
        ({"sft": ["sft 0", "sft 9"]}, "runs of sft: unknown name 'sft 9'"),
        ({"sft": ["sft 0", "sft 1"], "full": ["sft 1", "full 0"]}, "'sft 1' is also one of 'sft'"),
        ({"base": ["sft 0", "sft 1"]}, "'base' is also the name of a model"),
    ],
)
def test_methods_that_cannot_be_pooled_raise(methods, message):
    """A run that counts twice makes its method look certain."""
    with pytest.raises(ValueError, match=message):
        pooled_scores(ROWS, methods)
