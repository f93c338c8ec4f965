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
    scores, _ = alignment_scores([tile_record(logits, logits.clone()), tile_record(logits[:3], logits[:3])], draws=20)
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
    scores, bins = alignment_scores(parts, draws=20)
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
    one = alignment_scores([alignment_record({name: value[-2:-1] for name, value in quantities.items()})])
    assert [(found["low"], found["n"]) for found in one[1]] == [(0.9, 1)]


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
    score = alignment_scores(records)[0]["kd_alignment"]
    assert score["value"] == pytest.approx(sum(map(sum, responses)) / sum(map(len, responses)))
    means = []
    for _ in range(3000):
        some = rng.choices(responses, k=40)
        means.append(sum(map(sum, some)) / sum(map(len, some)))
    means.sort()
    assert (score["low"], score["high"]) == pytest.approx((means[75], means[2924]), abs=0.015) and score["n"] == 40
    shuffled = rng.sample(records, 40)
    assert alignment_scores(shuffled) == alignment_scores(records)


def test_gap_closed_by_hand():
    """The other way round a student that stays where the base was would have closed the whole gap."""
    teacher, base = torch.tensor(drawn((6, 9))), torch.tensor(drawn((6, 9), 1))
    half = torch.tensor(drawn((6, 9), 2))
    kl = {
        name: sum(expected_quantities(logits.numpy(), teacher.numpy())["kl"])
        for name, logits in (("base", base), ("half", half))
    }
    for student, expected in ((teacher, 1), (base, 0), (half, 1 - kl["half"] / kl["base"])):
        scores, _ = alignment_scores([tile_record(student, teacher, base)], draws=20)
        assert scores["gap_closed"]["value"] == pytest.approx(expected, abs=1e-9)
    assert "gap_closed" not in alignment_scores([tile_record(half, teacher)], draws=20)[0]
    # A base that is the teacher leaves no gap to close.
    assert alignment_scores([tile_record(half, teacher, teacher)], draws=20)[0]["gap_closed"]["value"] is None


def test_alignment_of_nothing_raises():
    """0 / 0 would print as NaN in the main table."""
    with pytest.raises(ValueError, match="records: there are none"):
        alignment_scores([])


def test_jsd_is_in_bits():
    """In nats two models that never agree would be 0.69 apart, of at most 1."""
    far = torch.tensor([[50.0, -50.0]], dtype=torch.float64)
    record = tile_record(far, -far)
    assert record["sums"]["jsd"] == pytest.approx(1) and record["sums"]["acceptance"] == pytest.approx(0)
    assert record["sums"]["kl"] == pytest.approx(100) and math.isfinite(record["sums"]["kl"])
