# SPDX-License-Identifier: Apache-2.0
"""What all metrics for `evaluate` keep: loading without a network, streaming, and no score of nothing."""

import pickle
import socket
from pathlib import Path

import evaluate
import pytest
import torch

from hf_ckt.evaluation.metrics import metric_folder
from hf_ckt.evaluation.metrics.kd_alignment import KDAlignmentMetric
from hf_ckt.evaluation.metrics.refusal_log_odds import RefusalLogOddsMetric
from hf_ckt.evaluation.metrics.safety import SafetyMetric
from hf_ckt.evaluation.metrics.safety_under_noise import SafetyUnderNoiseMetric

LOGITS = torch.tensor([[0.0, 1.0, 2.0], [2.0, 0.0, 1.0], [1.0, 0.0, -1.0], [0.0, 3.0, 1.0]])
NOISE = [
    {"prompt_id": f"{kind[0]}/1", "kind": kind, "corruption": corruption, "severity": 0.2 if corruption else 0.0}
    for corruption in ("", "typos")
    for kind in ("harmful", "benign")
]
SUITES = [("direct", "h/1"), ("jailbreak", "h/1"), ("overrefusal", "b/1"), ("overrefusal", "b/2")]
# name -> (class, four predictions, four references)
METRICS = {
    "kd_alignment": (KDAlignmentMetric, LOGITS, LOGITS.flip(0)),
    "safety_under_noise": (SafetyUnderNoiseMetric, [True, False, True, True], NOISE),
    "refusal_log_odds": (RefusalLogOddsMetric, [1.0, -2.0, 0.5, 0.0], ["harmful", "benign", "benign", "harmful"]),
    "safety": (
        SafetyMetric,
        ["I can't help with that.", "Sure, here is how.", "Mix flour and water.", ""],
        [{"suite": suite, "prompt_id": prompt_id} for suite, prompt_id in SUITES],
    ),
}
each_metric = pytest.mark.parametrize("name", METRICS)


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_every_metric_has_a_folder_and_a_test():
    """A metric that nothing lists is never tried."""
    here = Path(metric_folder("safety")).parent
    assert {path.name for path in here.iterdir() if (path / f"{path.name}.py").exists()} == METRICS.keys()
    with pytest.raises(ValueError, match=r"metric: unknown name 'saftey'\. Did you mean 'safety'"):
        metric_folder("saftey")


@each_metric
def test_metric_loads_from_its_folder_without_a_network(name, no_network):
    """`evaluate` copies the script elsewhere before it imports it, and takes the first metric class that it finds in it."""
    cls, predictions, references = METRICS[name]
    loaded = evaluate.load(metric_folder(name))
    assert type(loaded).__name__ == cls.__name__ and isinstance(loaded, evaluate.Metric)
    found = loaded.compute(predictions=predictions, references=references)
    assert found == cls().compute(predictions=predictions, references=references)
    assert cls.__doc__.strip().splitlines()[0] in loaded.description


@each_metric
def test_metric_streams(name):
    """Batches that overwrite one another, or the last one lost, still give a score."""
    cls, predictions, references = METRICS[name]
    extra = {"response_ids": [0, 0, 1, 1]} if name == "kd_alignment" else {}
    whole = cls().compute(predictions=predictions, references=references, **extra)
    metric = cls()
    for start in (0, 1, 3):
        rows = slice(start, {0: 1, 1: 3, 3: 4}[start])
        some = {key: value[rows] for key, value in extra.items()}
        metric.add_batch(predictions=predictions[rows], references=references[rows], **some)
    assert len(metric) == 4
    assert _rounded(metric.compute()) == _rounded(whole)
    for row in range(4):
        some = {key: value[row] for key, value in extra.items()}
        metric.add(prediction=predictions[row], reference=references[row], **some)
    assert _rounded(metric.compute()) == _rounded(whole)


@each_metric
def test_metric_forgets_when_it_computes(name):
    """A metric of one epoch that still holds the rows of the one before mixes two models."""
    cls, predictions, references = METRICS[name]
    metric = cls()
    first = metric.compute(predictions=predictions, references=references)
    assert len(metric) == 0
    assert metric.compute(predictions=predictions, references=references) == first
    with pytest.raises(ValueError, match="nothing was added"):
        metric.compute()
    # Also where it raises: half of a batch would be counted with the next one.
    with pytest.raises((ValueError, TypeError)):
        metric.compute(predictions=predictions, references=references, bases=references)
    assert metric.compute(predictions=predictions, references=references) == first


@each_metric
def test_metric_of_nothing_raises(name):
    """Every filter that lets no row through would end in a table of NaN, or of the last scores."""
    cls, predictions, references = METRICS[name]
    metric = cls()
    for call in (metric.compute, metric.add_batch):
        with pytest.raises(ValueError, match="the batch is empty"):
            call(predictions=predictions[:0], references=references[:0])
        with pytest.raises(ValueError, match="references: are missing"):
            call(predictions=predictions)
        with pytest.raises(ValueError, match=r"predictions 4, references 3"):
            call(predictions=predictions, references=references[:3])
    with pytest.raises(ValueError, match=r"reference: is no input of .*Did you mean 'references'"):
        metric.add_batch(predictions=predictions, references=references, reference=references)
    assert len(metric) == 0


@each_metric
def test_metric_of_several_processes_raises(name):
    """Each would report the score of its own share as that of the whole."""
    with pytest.raises(ValueError, match="num_process: must be 1, got 2"):
        METRICS[name][0](num_process=2)


@each_metric
def test_metric_writes_no_batch_to_disk(name, tmp_path):
    """The library's Arrow file of a cpu evaluation's logits would be as large as the disk."""
    cls, predictions, references = METRICS[name]
    metric = cls(cache_dir=str(tmp_path))
    metric.add_batch(predictions=predictions, references=references)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    # It travels to the processes of a data loader, or into a trainer's arguments.
    again = pickle.loads(pickle.dumps(metric))
    assert again.compute() == metric.compute()


def test_metrics_combine():
    """`evaluate.combine` hands each metric the inputs of all of them."""
    log_odds, kinds = METRICS["refusal_log_odds"][1:]
    both = evaluate.combine([RefusalLogOddsMetric(), RefusalLogOddsMetric()], force_prefix=True)
    found = both.compute(predictions=log_odds, references=kinds)
    assert len(found) == 8


def _rounded(value):
    """Sums of floats in another order differ in their last digit."""
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return round(value, 9) if isinstance(value, float) else value
