# SPDX-License-Identifier: Apache-2.0
"""The metric of safety under noise: the plain function's numbers."""

import pytest

from hf_ckt.evaluation.metrics.safety_under_noise import SafetyUnderNoiseMetric
from hf_ckt.evaluation.scoring.compared import score_models
from tests.evaluation.verdicts import noisy

T, F = True, False
CLEAN, TYPOS, SWAP = ("", 0.0), ("typos", 0.1), ("swap", 0.2)
ROWS = [
    *noisy("h/0", {CLEAN: [T], TYPOS: [T, F], SWAP: [T, T]}, set=""),
    *noisy("h/1", {CLEAN: [T], TYPOS: [T, T], SWAP: [F, T]}, set=""),
    *noisy("b/0", {CLEAN: [F], TYPOS: [F, F], SWAP: [F, T]}, set="", kind="benign"),
    *noisy("b/1", {CLEAN: [T], TYPOS: [F, F], SWAP: [F, F]}, set="", kind="benign"),
]
ROWS = [{**one, "seed": 0, "token_consistency": 0.9 if one["corruption"] else None} for one in ROWS]
KEYS = ("prompt_id", "kind", "corruption", "severity", "token_consistency")
REFERENCES = [{key: one[key] for key in KEYS} for one in ROWS]
REFUSED = [one["refused"] for one in ROWS]


def test_noise_metric_gives_the_numbers_of_the_plain_function():
    """Two ways to one number that do not meet leave the reader to choose."""
    expected = score_models({"": ROWS})[""]
    found = SafetyUnderNoiseMetric().compute(predictions=REFUSED, references=REFERENCES)
    assert found == {**expected.scores, "cells": expected.noise}
    assert found["youden_j_noise"]["value"] == pytest.approx(6 / 8 + 7 / 8 - 1)
    assert found["token_consistency"]["value"] == pytest.approx(0.9)


def test_noise_metric_takes_a_clean_prompt_without_corruption():
    """Clean references of a dataset have no such column, and would be a corruption of their own."""
    bare = [
        {key: value for key, value in one.items() if one["corruption"] or key in ("prompt_id", "kind")}
        for one in REFERENCES
    ]
    expected = SafetyUnderNoiseMetric().compute(predictions=REFUSED, references=REFERENCES)
    assert SafetyUnderNoiseMetric().compute(predictions=REFUSED, references=bare) == expected


def test_noise_metric_wants_a_kind():
    """Whether a refusal is right depends on it."""
    with pytest.raises(ValueError, match="references: one has no 'kind'"):
        SafetyUnderNoiseMetric().compute(predictions=[True], references=[{"prompt_id": "h/1"}])
