# SPDX-License-Identifier: Apache-2.0
"""What an example asks: the right prompt for each answer, and agreement on what the teacher said."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_ckt.data import load_prompts
from hf_ckt.evaluation.comparisons.asking import agreement, ask, probed, prompt_row
from hf_ckt.evaluation.measuring.answers import greedy_answers
from hf_ckt.evaluation.measuring.probe_odds import ask_probe
from hf_ckt.evaluation.measuring.refusal_openings import refusal_leanings
from hf_ckt.models.boundary_probe import BoundaryProbe


@pytest.fixture(scope="module")
def rows():
    """Prompts of unequal length, so that batches by length change their order."""
    prompts = [*load_prompts("starter-harmful")[:3], *load_prompts("starter-lookalike")[:3]]
    noisy = [prompt_row(one, one.text[::-1], corruption="typos", severity=0.5) for one in prompts]
    return [row for pair in zip(map(prompt_row, prompts), noisy, strict=True) for row in pair]


@pytest.fixture(scope="module")
def loaded(tiny_model_dir):
    return AutoModelForCausalLM.from_pretrained(tiny_model_dir), AutoTokenizer.from_pretrained(tiny_model_dir)


def test_prompt_row_keeps_the_request_beside_its_noise(rows):
    """Without the request, the judge reads a misspelt question, and a prompt cannot be paired with its clean one."""
    clean, noisy = rows[:2]
    assert clean["prompt"] == clean["request"] == noisy["request"] != noisy["prompt"]
    assert clean["prompt_id"] == noisy["prompt_id"]
    assert (clean["corruption"], noisy["corruption"], noisy["severity"]) == ("", "typos", 0.5)


def test_ask_gives_each_prompt_its_own_answer(loaded, rows):
    """Answers in the order of the batches belong to other prompts."""
    said = ask(*loaded, rows, system_prompt="Be kind.", new_tokens=4)
    for row, found in zip(rows, said, strict=True):
        (answer,) = greedy_answers(*loaded, [row["prompt"]], system_prompt="Be kind.", new_tokens=4)
        (leaning,) = refusal_leanings(*loaded, [row["prompt"]], system_prompt="Be kind.", title=None)
        assert found["answer"] == answer
        assert (found["log_odds"], found["margin"]) == pytest.approx((leaning.log_odds, leaning.margin), abs=1e-3)


def test_probe_is_kept_in_the_order_of_the_prompts(loaded, rows):
    """A results file holds numbers without their prompts: another order is another prompt's number."""
    probe = BoundaryProbe((1,), torch.randn(64, generator=torch.Generator().manual_seed(0)), 0.5, {"C": 0.01})
    kept = probed(probe, *loaded, rows, "before", system_prompt="Be kind.")
    for row, odds in zip(rows, kept["log_odds"], strict=True):
        assert odds == pytest.approx(ask_probe(probe, *loaded, [row["prompt"]], system_prompt="Be kind.")[0], abs=1e-4)
    assert kept["model"] == "before" and kept["layers"] == [1] and kept["facts"] == {"C": 0.01}


def test_agreement_with_itself_is_complete(loaded, rows):
    """A student read behind another prompt than its teacher agrees less with it than it does."""
    model, tokenizer = loaded
    responses = ["It depends on the case.", "", *["Ask somebody who knows."] * (len(rows) - 2)]
    records = agreement(model, model, tokenizer, rows, responses)
    assert [(one["id"], one["noise"]) for one in records] == [
        (row["prompt_id"], bool(row["corruption"])) for row in (rows[0], *rows[2:])
    ]
    for record in records:
        assert record["sums"]["acceptance"] == pytest.approx(record["tokens"], rel=1e-5)


def test_agreement_with_the_own_base_is_that_of_the_model_without_its_adapter(loaded, rows):
    """With the adapter left on, the student would be compared with itself, and agree always."""
    model, tokenizer = loaded
    torch.manual_seed(0)
    student = get_peft_model(copy.deepcopy(model), LoraConfig(target_modules="all-linear", init_lora_weights=False))
    responses = ["It depends on the case."] * len(rows)
    own, named = (agreement(student, teacher, tokenizer, rows, responses) for teacher in (None, model))
    for one, other in zip(own, named, strict=True):
        assert one["sums"]["acceptance"] == pytest.approx(other["sums"]["acceptance"], rel=1e-4)
        assert one["sums"]["acceptance"] < 0.99 * one["tokens"]
