# SPDX-License-Identifier: Apache-2.0
"""The boundary probe is fitted on what training reads, and chosen and calibrated on other rows."""

import importlib.util
from random import Random

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import get_peft_model
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from hf_ckt.evaluation.measuring.chat_format import ChatFormat
from hf_ckt.evaluation.probing import fitting
from hf_ckt.evaluation.probing.rows import ProbeRow
from hf_ckt.evaluation.probing.states import prompt_ids, read_states
from hf_ckt.models.batch import Batch
from hf_ckt.models.boundary_probe import BoundaryProbe, prompt_features
from tests import trainers
from tests.trainers import load, lora

SYSTEM = "Be brief."


def rows(count, start=0):
    """Prompts of random letters; a sign that typing errors leave alone says which are harmful."""
    found = []
    for number in range(start, start + count):
        rng = Random(number)
        words = ["".join(rng.choices("abcdefgh", k=rng.randint(2, 5))) for _ in range(rng.randint(2, 6))]
        harmful = number % 2 == 0
        words.insert(rng.randrange(len(words)), "!!!" if harmful else "???")
        kind = "harmful" if harmful else "twin" if number % 4 == 1 else "plain"
        group = f"r{number - number % 4}" if kind == "twin" else ""
        found.append(ProbeRow(f"r{number}", " ".join(words), harmful, kind, f"c{number % 3}", group))
    return found


TRAIN, VALIDATION = rows(48), rows(24, start=100)


@pytest.fixture(scope="module")
def model(tiny_model_dir):
    return load(tiny_model_dir).eval()


@pytest.fixture(scope="module")
def chat(tiny_model_dir):
    return ChatFormat(AutoTokenizer.from_pretrained(tiny_model_dir), SYSTEM)


@pytest.fixture(scope="module")
def probe(model, chat):
    return fitting.fit_probe(model, chat, TRAIN, VALIDATION, batch_size=7)


def test_a_sign_that_gives_the_side_away_is_found(probe):
    """Features of the wrong rows, or sides the wrong way round, would leave an area of a half or of 0."""
    assert probe.layers in ([1], [1, 2])
    for view in ("clean", "typos"):
        found = probe.facts["validation"][view]
        assert found["auroc"] == 1
        assert {kind: one["right"] for kind, one in found["accuracy"].items()} == {
            "harmful": 12,
            "plain": 6,
            "twin": 6,
        }
    assert probe.facts["mistakes"]["clean"] == {"by_category": [], "worst": []}


def test_log_odds_of_a_training_batch_are_those_of_the_fit(probe, model, chat, tiny_model_dir, tmp_path):
    """A probe fitted at another position, or on another template, than training reads would route by chance."""
    data = Dataset.from_list(
        [
            {
                "prompt": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": row.prompt}],
                "completion": [{"role": "assistant", "content": "Well, " * (1 + number)}],
            }
            for number, row in enumerate(VALIDATION[:6])
        ]
    )
    trainer = trainers.build(tmp_path, tiny_model_dir, data, per_device_train_batch_size=6)
    inputs = dict(trainers.first_batch(trainer))
    labels = inputs.pop("labels")
    batch = Batch(inputs, labels)
    with torch.no_grad():
        states = model(**inputs, output_hidden_states=True).hidden_states
    numbers, log_odds = probe.log_odds(states, batch)
    assert numbers.tolist() == [*range(6)]
    assert [value > 0 for value in log_odds.tolist()] == [row.harmful for row in VALIDATION[:6]]

    prompts = [row.prompt for row in VALIDATION[:6]]
    read = read_states(model, prompt_ids(chat, prompts), probe.layers, batch_size=4)
    expected = read.reshape(6, -1).astype(np.float64) @ probe.weight.double().numpy() + probe.bias
    np.testing.assert_allclose(log_odds.numpy(), expected, atol=0.02)  # float16 is kept of the states
    _, features = prompt_features(states, batch, probe.layers)
    np.testing.assert_allclose(read.reshape(6, -1), features.numpy(), rtol=2e-3, atol=2e-3)


def test_the_order_of_the_rows_changes_nothing(probe, model, chat):
    """Two people with the same rows would have two probes."""
    train, validation = list(TRAIN), list(VALIDATION)
    Random(3).shuffle(train)
    Random(4).shuffle(validation)
    again = fitting.fit_probe(model, chat, train, validation, batch_size=7)
    assert torch.equal(again.weight, probe.weight) and again.bias == probe.bias
    assert again.facts == probe.facts


def test_an_adapter_around_the_model_changes_nothing(probe, chat, tiny_model_dir):
    """The probe says what the frozen base knows; of the student it would be another one at each step."""
    torch.manual_seed(0)
    student = get_peft_model(load(tiny_model_dir), lora()).eval()
    again = fitting.fit_probe(student, chat, TRAIN, VALIDATION, batch_size=7)
    assert torch.equal(again.weight, probe.weight) and again.facts["fingerprint"] == probe.facts["fingerprint"]
    again.require_model(student)


def test_folded_standardization_is_sklearns_decision_function():
    """A mean or a spread that is folded in wrongly shifts the odds of all prompts."""
    rng = np.random.default_rng(0)
    features = (rng.standard_normal((60, 20)) * rng.uniform(0.1, 50, 20) + rng.uniform(-200, 200, 20)).astype(
        np.float32
    )
    features[:, 3] = 7  # the same everywhere
    harmful = features[:, 0] - features[:, 0].mean() + rng.standard_normal(60) > 5
    fit = fitting.fit_logistic(features, harmful, 0.01)
    regression = LogisticRegression(C=0.01, class_weight="balanced", max_iter=3000)
    expected = make_pipeline(StandardScaler(), regression).fit(features.astype(np.float64), harmful)
    np.testing.assert_allclose(
        fit.scores(features), expected.decision_function(features.astype(np.float64)), atol=2e-3
    )


def test_a_state_too_large_for_half_precision_is_kept(model, chat, monkeypatch):
    """An infinity among the features would make every odds NaN."""
    from hf_ckt.evaluation.probing import states

    monkeypatch.setattr(states, "prompt_features", lambda *args: (None, prompt_features(*args)[1] * 1e6))
    ids = prompt_ids(chat, ["abc", "defgh ab"])
    read = read_states(model, ids, [1])
    assert np.isfinite(read).all() and np.abs(read).max() > 65504


def test_own_layers_are_taken_and_wrong_ones_refused(model, chat):
    """A layer that is not there would fail deep in the reading, after all prompts were read."""
    assert fitting.fit_probe(model, chat, TRAIN, VALIDATION, layers=[2], strengths=[0.01]).layers == [2]
    with pytest.raises(ValueError, match="layers: 3 is asked for, and the model has 2"):
        fitting.fit_probe(model, chat, TRAIN, VALIDATION, layers=[1, 3])
    with pytest.raises(ValueError, match="none twice"):
        fitting.fit_probe(model, chat, TRAIN, VALIDATION, layers=[1, 1])


def test_a_prompt_of_both_splits_is_refused(model, chat):
    """Layers would be chosen by what was learnt by heart, and the odds be too sure."""
    with pytest.raises(ValueError, match=r"1 of its 25 prompts are in the training rows too \(first: r0 and r0\)"):
        fitting.fit_probe(model, chat, TRAIN, [*VALIDATION, TRAIN[0]])


def test_messages_are_asked_as_the_texts_in_them(chat):
    """A system prompt that is put in twice, or left out, would be another prompt than the one that is trained on."""
    user = {"role": "user", "content": "abc"}
    text, messages, own = prompt_ids(chat, ["abc", [user], [{"role": "system", "content": SYSTEM}, user]])
    assert text == messages == own


def test_messages_that_the_template_cannot_write_are_named(chat):
    """The error of a template says neither which prompt it was nor what to do."""
    blocks = [{"role": "user", "content": [{"type": "text", "text": "abc"}]}]
    with pytest.raises(ValueError, match=r"prompt: the chat template cannot write .*abc.*TypeError.*as one text"):
        prompt_ids(chat, ["abc", blocks])


def test_a_prompt_beyond_the_positions_is_refused(chat, tmp_path):
    """A model with a table of positions ends in an index error, after all shorter prompts were read."""
    settings = {"n_positions": 16, "n_embd": 8, "n_layer": 1, "n_head": 1, "vocab_size": len(chat.tokenizer)}
    with pytest.raises(ValueError, match="learned 16 positions"):
        read_states(GPT2LMHeadModel(GPT2Config(**settings)), [[5] * 16], [1])


def test_without_sklearn_it_says_what_to_install(model, chat, monkeypatch):
    """A ModuleNotFoundError names a module, and not the extra that brings it."""
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "sklearn" else found(name, *rest)
    )
    with pytest.raises(ValueError, match=r'pip install "hf-ckt\[eval\]"'):
        fitting.fit_probe(model, chat, TRAIN, VALIDATION)


def test_a_probe_is_read_back_from_its_file(probe, tmp_path):
    """Facts that JSON cannot hold would fail after minutes of reading."""
    probe.save(tmp_path)
    again = BoundaryProbe.load(tmp_path)
    assert torch.equal(again.weight, probe.weight) and again.bias == probe.bias and again.layers == probe.layers
    assert again.facts["validation"] == probe.facts["validation"]
