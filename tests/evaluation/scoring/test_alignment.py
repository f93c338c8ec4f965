# SPDX-License-Identifier: Apache-2.0
"""Agreement of a student with its teacher: against scipy and plain loops, and what is kept of a model's logits."""

import json
import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.special import log_softmax, rel_entr

from hf_ckt.evaluation.scoring.alignment import (
    alignment_record,
    alignment_scores,
    tile_record,
    token_alignment,
)
from hf_ckt.views import LogitsView, TokenViews


def expected_quantities(student: np.ndarray, teacher: np.ndarray) -> dict[str, list[float]]:
    """Each quantity at each token by scipy and by sorting, from logits `(n, V)`."""
    shared = min(student.shape[1], teacher.shape[1])
    log_s, log_t = (log_softmax(logits[:, :shared].astype(float), axis=1) for logits in (student, teacher))
    p, q = np.exp(log_t), np.exp(log_s)
    ten = min(10, shared)
    return {
        "acceptance": (1 - np.abs(p - q).sum(1) / 2).tolist(),
        "agreement": (p.argmax(1) == q.argmax(1)).astype(float).tolist(),
        "top10_overlap": [
            len({*np.argsort(-a)[:ten].tolist()} & {*np.argsort(-b)[:ten].tolist()}) / ten
            for a, b in zip(p, q, strict=True)
        ],
        "kl": rel_entr(p, q).sum(1).tolist(),
        "jsd": (jensenshannon(p, q, base=2, axis=1) ** 2).tolist(),
        "confidence": q.max(1).tolist(),
    }


def alignment(records, named=True, **settings):
    """Scores and calibration of one model's records."""
    given = [{"id": f"r{number:03}", **one} for number, one in enumerate(records)]
    found = alignment_scores({"a": given}, named=named, **settings)["a"]
    return found.scores, found.calibration


def drawn(shape, seed=0, scale=2.0):
    return np.random.default_rng(seed).normal(size=shape) * scale


@pytest.mark.parametrize(("vocab", "teacher_vocab"), [(40, 40), (40, 43), (43, 40), (7, 7)])
def test_token_alignment_is_scipys(vocab, teacher_vocab):
    """A table whose columns are in other units, of other vocabularies, or the wrong way round."""
    student, teacher = drawn((50, vocab)), drawn((50, teacher_vocab), 1)
    found = token_alignment(
        TokenViews(
            torch.zeros(50).long(), LogitsView(torch.tensor(student)), teacher=LogitsView(torch.tensor(teacher))
        )
    )
    expected = expected_quantities(student, teacher)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        torch.testing.assert_close(found[name], torch.tensor(values, dtype=torch.float64), rtol=1e-9, atol=1e-9)


@given(st.integers(0, 10_000), st.integers(2, 30), st.floats(0.1, 20))
@settings(max_examples=50, deadline=None, derandomize=True, database=None)
def test_a_model_agrees_with_itself(seed, vocab, scale):
    """What is not 1, or 0, at equality measures something else than agreement."""
    logits = torch.tensor(drawn((9, vocab), seed, scale))
    scores, _ = alignment([tile_record(logits, logits.clone()), tile_record(logits[:3], logits[:3])], draws=20)
    values = {name: score["value"] for name, score in scores.items() if name != "calibration_error"}
    assert values == pytest.approx(
        {"kd_alignment": 1, "top1_agreement": 1, "top10_overlap": 1, "kl": 0, "jsd": 0}, abs=1e-9
    )


def test_alignment_record_is_what_json_holds_of_a_tile():
    """Tensors in a record would be saved as text, or keep the logits of a whole evaluation alive."""
    record = tile_record(torch.tensor(drawn((30, 12))), torch.tensor(drawn((30, 12), 1)))
    assert json.loads(json.dumps(record)) == record and record["tokens"] == 30
    for name, values in expected_quantities(drawn((30, 12)), drawn((30, 12), 1)).items():
        if name != "confidence":
            assert record["sums"][name] == pytest.approx(sum(values))


def test_calibration_is_that_of_a_plain_loop():
    """Bins that overlap or leave a value out; agreement weighed by bin and not by token."""
    rng = random.Random(0)
    tokens = [(rng.random(), float(rng.random() < 0.5)) for _ in range(500)] + [(1.0, 1.0), (0.3, 0.0)]
    quantities = {name: torch.zeros(len(tokens)) for name in ("acceptance", "top10_overlap", "kl", "jsd")}
    quantities["confidence"] = torch.tensor([confidence for confidence, _ in tokens], dtype=torch.float64)
    quantities["agreement"] = torch.tensor([agreement for _, agreement in tokens], dtype=torch.float64)
    parts = [
        alignment_record({name: value[rows] for name, value in quantities.items()})
        for rows in (slice(0, 200), slice(200, None))
    ]
    scores, bins = alignment(parts, draws=20)
    error = 0.0
    for number in range(10):
        inside = [one for one in tokens if number / 10 <= one[0] < (number + 1) / 10 or (number, one[0]) == (9, 1.0)]
        confidence, agreement = (sum(column) / len(inside) for column in zip(*inside, strict=True))
        error += len(inside) / len(tokens) * abs(confidence - agreement)
        assert bins[number] == pytest.approx(
            {
                "low": number / 10,
                "high": (number + 1) / 10,
                "confidence": confidence,
                "agreement": agreement,
                "n": len(inside),
            }
        )
    assert scores["calibration_error"]["value"] == pytest.approx(error)
    # A bin without a token is left out: it has no confidence.
    one = alignment([alignment_record({name: value[-2:-1] for name, value in quantities.items()})])
    assert [(found["low"], found["n"]) for found in one[1]] == [(0.9, 1)]


def test_responses_to_prompts_of_two_kinds_with_one_id_are_two():
    """Own prompts that are numbered from 0 in each kind would count half, and be drawn in pairs."""
    records = [tile_record(torch.tensor(drawn((6, 9), n)), torch.tensor(drawn((6, 9), 9 + n))) for n in range(6)]
    named = [one | {"id": f"{n // 2}", "kind": ("harmful", "benign")[n % 2]} for n, one in enumerate(records)]
    assert alignment_scores({"a": named}, named=True, draws=20)["a"].scores["kd_alignment"]["n"] == 6


def test_alignment_scores_weigh_tokens_the_same_and_resample_responses():
    """Tokens of a response rise and fall together; drawn one by one their interval is far too narrow."""
    rng = random.Random(0)
    records, responses = [], []
    for _ in range(40):
        level, size = rng.random(), rng.randint(2, 30)
        values = [min(1.0, max(0.0, level + rng.gauss(0, 0.05))) for _ in range(size)]
        responses.append(values)
        quantities = {name: torch.zeros(size) for name in ("agreement", "top10_overlap", "kl", "jsd", "confidence")}
        records.append(alignment_record({**quantities, "acceptance": torch.tensor(values, dtype=torch.float64)}))
    score = alignment(records)[0]["kd_alignment"]
    assert score["value"] == pytest.approx(sum(map(sum, responses)) / sum(map(len, responses)))
    means = []
    for _ in range(3000):
        some = rng.choices(responses, k=40)
        means.append(sum(map(sum, some)) / sum(map(len, some)))
    means.sort()
    assert (score["low"], score["high"]) == pytest.approx((means[75], means[2924]), abs=0.015) and score["n"] == 40
    given = [{**one, "id": f"r{number}"} for number, one in enumerate(records)]
    shuffled = rng.sample(given, 40)
    assert alignment_scores({"a": shuffled}, named=True) == alignment_scores({"a": given}, named=True)


def test_gap_closed_by_hand():
    """The other way round a student that stays where the base was would have closed the whole gap."""
    teacher, base = torch.tensor(drawn((6, 9))), torch.tensor(drawn((6, 9), 1))
    half = torch.tensor(drawn((6, 9), 2))
    kl = {
        name: sum(expected_quantities(logits.numpy(), teacher.numpy())["kl"])
        for name, logits in (("base", base), ("half", half))
    }
    for student, expected in ((teacher, 1), (base, 0), (half, 1 - kl["half"] / kl["base"])):
        scores, _ = alignment([tile_record(student, teacher, base)], draws=20)
        assert scores["gap_closed"]["value"] == pytest.approx(expected, abs=1e-9)
    assert "gap_closed" not in alignment([tile_record(half, teacher)], draws=20)[0]
    # A base that is the teacher leaves no gap to close.
    assert alignment([tile_record(half, teacher, teacher)], draws=20)[0]["gap_closed"]["value"] is None


def test_alignment_of_nothing_raises():
    """0 / 0 would print as NaN in the main table."""
    with pytest.raises(ValueError, match="records: there are none"):
        alignment_scores({"a": []}, named=True)


def records_of(scale, count=30, seed=0, ids=range(100)):
    """A student that lies this far from its teacher, on responses that are the same for every scale."""
    generator = np.random.default_rng(seed)
    found = []
    for _, name in zip(range(count), ids, strict=False):
        teacher, noise, base = (generator.normal(size=(12, 9)) * 2 for _ in range(3))
        student = torch.tensor(teacher + scale * noise)
        found.append(tile_record(student, torch.tensor(teacher), torch.tensor(base)) | {"id": f"r{name:03}"})
    return found


def test_agreement_with_the_base_is_no_kd_alignment():
    """Without a teacher the untrained base has the best agreement of all, and would lead the table."""
    records = [one | {"noise": number >= 20} for number, one in enumerate(records_of(1.0))]
    found = alignment_scores({"a": records}, named=False)["a"]
    assert {*found.scores} == {"base_agreement", "base_agreement_noise"} and not found.calibration
    named = alignment_scores({"a": records}, named=True)["a"]
    assert named.scores["kd_alignment"]["value"] == found.scores["base_agreement"]["value"]
    assert [named.scores[name]["n"] for name in ("kd_alignment", "kd_alignment_noise", "kl")] == [20, 10, 20]
    assert named.scores["kd_alignment"]["value"] == alignment(records[:20])[0]["kd_alignment"]["value"]


def test_differences_in_agreement_are_paired_by_response():
    """Responses differ by far more than two students do on each."""
    near, far = records_of(0.8), records_of(0.9)
    found = alignment_scores({"far": far, "near": near[::-1]}, named=True)
    difference, own = found["near"].against["far"]["kl"], found["near"].scores["kl"]
    per_response = [
        (one["sums"]["kl"] - other["sums"]["kl"]) / one["tokens"] for one, other in zip(near, far, strict=True)
    ]
    assert difference["difference"] == pytest.approx(np.mean(per_response))
    half = 1.96 * np.std(per_response, ddof=1) / 30**0.5
    assert difference["high"] - difference["low"] == pytest.approx(2 * half, rel=0.2)
    assert difference["high"] - difference["low"] < 0.6 * (own["high"] - own["low"])
    some = alignment_scores({"far": far[:20], "near": near[10:]}, named=True)["near"].against["far"]["kl"]
    assert some["difference"] == pytest.approx(np.mean(per_response[10:20]))
    assert alignment_scores({"far": far[:10], "near": near[10:]}, named=True)["near"].against == {}


def test_perfect_agreement_is_no_point():
    """[1, 1] of 30 responses says that the student holds the teacher's distribution everywhere."""
    scores, _ = alignment(records_of(0.0))
    for name in ("kd_alignment", "top1_agreement", "top10_overlap"):
        assert scores[name]["value"] == pytest.approx(1) and scores[name]["low"] < 0.95
    assert scores["kl"]["value"] == pytest.approx(0) and scores["kl"]["interval"] is None


def test_undefined_draws_are_counted():
    """An interval of half of the draws looks like one of all of them."""
    records = [{**one, "sums": {**one["sums"], "base_kl": 0.0}} for one in records_of(1.0, 3)]
    records[0]["sums"]["base_kl"] = 50.0
    found = alignment(records, draws=3_000)[0]["gap_closed"]
    # (2 / 3)^3 of the draws hold only responses in which the base is the teacher
    assert found["dropped"] == pytest.approx(3_000 * 8 / 27, rel=0.1)


def test_jsd_is_in_bits():
    """In nats two models that never agree would be 0.69 apart, of at most 1."""
    far = torch.tensor([[50.0, -50.0]], dtype=torch.float64)
    record = tile_record(far, -far)
    assert record["sums"]["jsd"] == pytest.approx(1) and record["sums"]["acceptance"] == pytest.approx(0)
    assert record["sums"]["kl"] == pytest.approx(100) and math.isfinite(record["sums"]["kl"])
