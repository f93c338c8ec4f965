# SPDX-License-Identifier: Apache-2.0
"""The metric of agreement: the plain functions' numbers, and nothing kept of the logits."""

import gc
import pickle
from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from hf_ckt.evaluation.measuring.alignment_records import compare_models
from hf_ckt.evaluation.measuring.response_batches import response_batch
from hf_ckt.evaluation.metrics.kd_alignment import KDAlignmentMetric
from hf_ckt.evaluation.scoring.alignment import alignment_scores
from tests.tiny_models import save_tiny_llama
from tests.trainers import load

PROMPTS = ["How do I bake bread?", "Kill a process", "Help"]
RESPONSES = ["Mix flour and water, then give it time. " * 9, "Find its number first, then end it.", "I cannot."]


def drawn(shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_kd_alignment_metric_gives_the_numbers_of_compare_models(tiny_model_dir, tmp_path):
    """Two ways to one number that do not meet leave the reader to choose."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    models = [load(tiny_model_dir), *(load(save_tiny_llama(tmp_path / str(seed), seed=seed)) for seed in (1, 2))]
    student, teacher, base = (partial(nullcontext, model) for model in models)
    records = compare_models(student, teacher, tokenizer, PROMPTS, RESPONSES, base=base)
    records = [{**one, "id": f"{number}"} for number, one in enumerate(records)]
    scored = alignment_scores({"": records}, named=True)[""]
    expected, calibration = scored.scores, scored.calibration
    batch = response_batch(tokenizer, PROMPTS, RESPONSES)
    assert len(batch.kept) > 128  # more than a tile
    with torch.no_grad():
        logits = [model.eval()(**batch.inputs).logits.flatten(0, 1)[batch.kept] for model in models]
    found = KDAlignmentMetric().compute(
        predictions=logits[0], references=logits[1], base=logits[2], response_ids=batch.kept_documents
    )
    assert found.keys() == {*expected, "calibration"} and "gap_closed" in expected
    for name, score in expected.items():
        assert found[name] == {
            **score,
            **{key: pytest.approx(score[key], abs=1e-5) for key in ("value", "low", "high")},
        }
    assert [one["n"] for one in found["calibration"]] == [one["n"] for one in calibration]


def test_kd_alignment_metric_takes_tensors_arrays_and_lists_logits_and_log_probabilities():
    """A form that is silently read as another gives other distributions."""
    student, teacher = drawn((5, 12)), drawn((5, 12), 1)
    expected = KDAlignmentMetric().compute(predictions=student, references=teacher)
    forms = [
        (student.numpy(), teacher.numpy()),
        (student.tolist(), teacher.tolist()),
        ([*student], [*teacher]),
        (student.log_softmax(1), teacher.log_softmax(1)),
        (student.double() + 7, teacher.double()),
    ]
    for predictions, references in forms:
        found = KDAlignmentMetric().compute(predictions=predictions, references=references)
        for name in ("kd_alignment", "kl", "jsd", "top10_overlap"):
            assert found[name]["value"] == pytest.approx(expected[name]["value"], abs=1e-6)
    low = KDAlignmentMetric().compute(predictions=student.bfloat16(), references=teacher.bfloat16())
    assert low["kl"]["value"] == pytest.approx(expected["kl"]["value"], rel=0.05)  # summed in float32


def test_kd_alignment_metric_resamples_responses():
    """Intervals over tokens would be too narrow; over batches, they would depend on the batch size."""
    student, teacher = drawn((60, 9)), drawn((60, 9), 1)
    ids = [f"r{n // 10}" for n in range(60)]
    expected = KDAlignmentMetric().compute(predictions=student, references=teacher, response_ids=ids)
    assert expected["kd_alignment"]["n"] == 6
    metric = KDAlignmentMetric()
    for start in range(0, 60, 7):
        rows = slice(start, start + 7)
        metric.add_batch(predictions=student[rows], references=teacher[rows], response_ids=ids[rows])
    found = metric.compute()
    for name in ("kd_alignment", "kl"):
        for key in ("value", "low", "high"):
            assert found[name][key] == pytest.approx(expected[name][key], abs=1e-6)
    # Ids as the rows of a tensor: equal numbers are one response.
    numbers = torch.arange(60) // 10
    again = KDAlignmentMetric().compute(predictions=student, references=teacher, response_ids=numbers)
    assert again["kl"]["n"] == 6
    for start in (0, 30):
        metric.add_batch(predictions=student[start : start + 30], references=teacher[start : start + 30])
    assert metric.compute()["kl"]["n"] == 2
    # A single response has a value and no interval.
    score = metric.compute(predictions=student, references=teacher)["kd_alignment"]
    assert score["n"] == 1 and score["value"] is not None and score["low"] is score["interval"] is None


def test_kd_alignment_metric_keeps_nothing_of_the_vocabulary():
    """A thousand responses of 256 tokens over 262,144 ids are 250 GB, in memory or in an Arrow file."""

    def held(tokens, vocab):
        metric = KDAlignmentMetric()
        for start in range(0, tokens, 50):
            metric.add_batch(
                predictions=drawn((50, vocab), start),
                references=drawn((50, vocab), start + 1),
                response_ids=[n % 5 for n in range(50)],
            )
        return metric

    sizes = [len(pickle.dumps(held(*sizes)._records)) for sizes in ((50, 20), (50, 2000), (400, 20))]
    assert max(sizes) < 1.05 * min(sizes)
    metric = held(50, 2345)
    gc.collect()
    # By its type: isinstance asks deprecated proxies for their class, and they answer with a warning.
    alive = [one for one in gc.get_objects() if type(one) in (torch.Tensor, np.ndarray) and 2345 in one.shape]
    assert not alive and not _tensors(vars(metric))


def _tensors(value) -> list:
    if isinstance(value, dict):
        return [found for one in value.values() for found in _tensors(one)]
    if isinstance(value, (list, tuple)):
        return [found for one in value for found in _tensors(one)]
    return [value] if isinstance(value, (torch.Tensor, np.ndarray)) else []


def test_kd_alignment_metric_refuses_what_would_be_read_wrongly():
    """Probabilities taken for logits are nearly uniform: everything agrees with everything."""
    logits = drawn((4, 6))
    with pytest.raises(ValueError, match="predictions: look like probabilities"):
        KDAlignmentMetric().compute(predictions=logits.softmax(1), references=logits)
    with pytest.raises(ValueError, match="references: hold a value that is not finite"):
        KDAlignmentMetric().compute(
            predictions=logits, references=logits.masked_fill(torch.eye(4, 6).bool(), -torch.inf)
        )
    with pytest.raises(ValueError, match=r"predictions: must have the shape \(n, V\), got \(2, 2, 6\)"):
        KDAlignmentMetric().compute(predictions=logits.view(2, 2, 6), references=logits.view(2, 2, 6))
    metric = KDAlignmentMetric()
    metric.add_batch(predictions=logits, references=logits, base=logits)
    with pytest.raises(ValueError, match="base: some batches have one"):
        metric.add_batch(predictions=logits, references=logits)
