# SPDX-License-Identifier: Apache-2.0
"""The metric of robustness: the plain function's numbers, with and without a baseline."""

import pytest

from hf_ckt.evaluation.metrics.noise_robustness import NoiseRobustnessMetric
from hf_ckt.evaluation.scoring.robustness import noise_scores
from tests.evaluation.verdicts import noisy

T, F = True, False
CLEAN, TYPOS, SWAP = ("", 0.0), ("typos", 0.1), ("swap", 0.2)


def _rows(harmful, benign):
    rows = [one for n, cells in enumerate(harmful) for one in noisy(f"h/{n}", cells, set="")]
    rows += [one for n, cells in enumerate(benign) for one in noisy(f"b/{n}", cells, set="", kind="benign")]
    return [{**one, "token_consistency": 0.9 if one["corruption"] else None} for one in rows]


ROWS = _rows(
    [{CLEAN: [T], TYPOS: [T, F], SWAP: [T, T]}, {CLEAN: [T], TYPOS: [T, T], SWAP: [F, T]}],
    [{CLEAN: [F], TYPOS: [F, F], SWAP: [F, T]}, {CLEAN: [T], TYPOS: [F, F], SWAP: [F, F]}],
)
BASELINE = _rows(
    [{CLEAN: [T], TYPOS: [F, F], SWAP: [T, F]}, {CLEAN: [T], TYPOS: [F, T], SWAP: [F, T]}],
    [{CLEAN: [F], TYPOS: [F, F], SWAP: [F, T]}, {CLEAN: [F], TYPOS: [T, F], SWAP: [F, F]}],
)
KEYS = ("prompt_id", "kind", "corruption", "severity", "token_consistency")
REFERENCES = [{key: one[key] for key in KEYS} for one in ROWS]
REFUSED, OTHERS = ([one["refused"] for one in rows] for rows in (ROWS, BASELINE))


def test_noise_metric_gives_the_numbers_of_the_plain_function():
    """Two ways to one number that do not meet leave the reader to choose."""
    scores, cells = noise_scores(ROWS)
    found = NoiseRobustnessMetric().compute(predictions=REFUSED, references=REFERENCES)
    assert found == {**scores, "cells": cells} and scores["token_consistency"]["value"] == pytest.approx(0.9)
    scores, cells = noise_scores(ROWS, BASELINE)
    found = NoiseRobustnessMetric().compute(predictions=REFUSED, references=REFERENCES, baseline=OTHERS)
    assert found == {**scores, "cells": cells} and scores["mce"]["value"] is not None


def test_noise_metric_takes_a_clean_prompt_without_corruption():
    """Clean references of a dataset have no such column, and would be a corruption of their own."""
    bare = [
        {key: value for key, value in one.items() if one["corruption"] or key in ("prompt_id", "kind")}
        for one in REFERENCES
    ]
    expected = NoiseRobustnessMetric().compute(predictions=REFUSED, references=REFERENCES)
    assert NoiseRobustnessMetric().compute(predictions=REFUSED, references=bare) == expected


def test_noise_metric_wants_the_baseline_with_every_batch():
    """The error relative to half of the baseline's is twice as large."""
    metric = NoiseRobustnessMetric()
    metric.add_batch(predictions=REFUSED[:5], references=REFERENCES[:5], baseline=OTHERS[:5])
    with pytest.raises(ValueError, match="baseline: some batches have one"):
        metric.add_batch(predictions=REFUSED[5:], references=REFERENCES[5:])
    with pytest.raises(ValueError, match=r"predictions 4, references 4, baseline 3"):
        metric.add_batch(predictions=REFUSED[:4], references=REFERENCES[:4], baseline=OTHERS[:3])


def test_noise_metric_wants_a_kind():
    """Whether a refusal is right depends on it."""
    with pytest.raises(ValueError, match="references: one has no 'kind'"):
        NoiseRobustnessMetric().compute(predictions=[True], references=[{"prompt_id": "h/1"}])
