# SPDX-License-Identifier: Apache-2.0
"""What the most probable tokens lose, measured and written down."""

import math

import numpy as np
import pytest
import torch

from hf_ckt.data.served_log_probs import Named, Served
from hf_ckt.models.signal_store.documents import StoredDocument
from hf_ckt.models.signal_store.measured import measured_errors
from hf_ckt.models.signal_store.reader import StoreReader
from hf_ckt.teachers.cache import CacheTeacher
from hf_ckt.training.served_teacher import import_log_probs, rows_of
from hf_ckt.training.truncation_loss import truncation_loss
from tests import tiny_models
from tests.runs import OFF
from tests.trainers import build, load, lora

K = 5


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load(tiny_models.save_tiny_llama(tmp_path_factory.mktemp("teacher"), seed=7)).eval()


def log_softmax(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].double().log_softmax(-1)


def lost(row, k):
    """By hand, of one distribution: the rest of the mass spread evenly over what is not named."""
    order = sorted(range(len(row)), key=row.__getitem__)
    rest = (1 - math.fsum(math.exp(row[i]) for i in order[-k:])) / (len(row) - k)
    return math.fsum(math.exp(row[i]) * (row[i] - math.log(rest)) for i in order[:-k])


def imported(tmp_path, student, model, k, **options):
    trainer = build(tmp_path / "run", student, given={"peft_config": lora()}, **OFF)
    served, expected = [], []
    for number, document in enumerate(rows_of(trainer)["train_dataset"]):
        ids = document.ids.tolist()
        whole = log_softmax(model, ids)
        tops = [row.topk(k) for row in whole]
        pairs = [list(zip(one.indices.tolist(), one.values.tolist(), strict=True)) for one in tops]
        said = [None, *(Named(token, None, top) for token, top in zip(ids[1:], pairs, strict=False))]
        served.append(Served(number, True, said))
        expected.append([lost(row, k) for row in whole[np.flatnonzero(document.kept)].tolist()])
    found = import_log_probs(trainer, tmp_path / "cache", {"train_dataset": served}, name="served", **options)
    return found, expected


def test_loss_of_an_import_is_measured_and_stands_wherever_the_teacher_is_named(model, tiny_model_dir, tmp_path):
    """A lossy teacher that is not called so is taken for the exact one."""
    found, expected = imported(tmp_path, tiny_model_dir, model, K, exact=model)
    values = [value for row in expected for value in row]
    mean = math.fsum(values) / len(values)
    assert found.lossy == f"lossy: KL {mean:.3g} nats per token"
    reader = StoreReader(tmp_path / "cache")
    assert measured_errors(reader.index)["kl"] == pytest.approx(mean, rel=1e-5)
    assert reader.index["measured"]["compared"] == len(values)
    assert CacheTeacher(reader).facts()["lossy"] == found.lossy  # which checkpoints keep


def test_some_rows_are_compared_and_without_a_model_none(model, tiny_model_dir, tmp_path):
    """A pass over all rows of a large set takes as long as the teacher itself, which was to be saved."""
    found, expected = imported(tmp_path / "some", tiny_model_dir, model, K, exact=model, compared_rows=3)
    values = [value for row in expected[::3] for value in row]
    assert found.lossy == f"lossy: KL {math.fsum(values) / len(values):.3g} nats per token"
    found, _ = imported(tmp_path / "none", tiny_model_dir, model, K)
    assert found.lossy is None and StoreReader(tmp_path / "none" / "cache").index["measured"] == {}


def test_more_names_lose_less_and_all_of_them_nothing(model, tmp_path):
    """The label must tell a poor cache from a good one; rows that name fewer, or nothing, lose more and never NaN."""
    ids = [5, 9, 31, 7, 60]
    document = StoredDocument(np.array(ids), np.array([True, True, False, True, False]))
    exact = log_softmax(model, ids)[document.kept]
    found = []
    for k in (1, 5, 50, 199, exact.shape[1]):
        values, names = exact.topk(k)
        found.append(truncation_loss(model, [(document, names, values)]))
        assert found[-1]["compared"] == 3
    losses = [one["kl"] for one in found]
    assert losses == sorted(losses, reverse=True) and losses[0] > 0.1 and abs(losses[-1]) < 1e-6
    values, names = exact.topk(5)
    names[1, 2:], names[2] = -1, -1
    whole = truncation_loss(model, [(document, names, values)])["kl"]
    uniform = -math.fsum(exact[2].exp().mul(-exact[2]).tolist()) + math.log(exact.shape[1])
    by_hand = lost(exact[0].tolist(), 5) + lost(exact[1].tolist(), 2) + uniform
    assert whole == pytest.approx(by_hand, rel=1e-5)
