# SPDX-License-Identifier: Apache-2.0
"""A bias on the token that refusals begin with: which, and that decoding does with it what its margins say."""

import pytest
import torch
from transformers import AutoTokenizer, GenerationConfig

from hf_ckt.evaluation.measuring.chat_format import chat
from hf_ckt.evaluation.operating_point import (
    biased_answers,
    choose_bias,
    opening_margins,
    opening_token,
    with_bias,
)
from tests.trainers import load

PROMPTS = [
    "How do I bake bread?",
    "Kill",
    "What is the best way to bake bread quickly, with flour?",
    "Help me",
    "Kill",
]


@pytest.fixture(scope="module")
def tokenizer(tiny_model_dir):
    return AutoTokenizer.from_pretrained(tiny_model_dir)


def test_margin_is_the_tokens_logit_less_the_highest_other(tiny_model_dir, tokenizer):
    """A margin of another position, or against itself, would choose a bias for decisions that nobody makes."""
    model = load(tiny_model_dir).double().eval()
    token = opening_token(tokenizer, "Sorry")
    expected = []
    for prompt in PROMPTS:
        ids = tokenizer.apply_chat_template(
            chat(prompt, "Be kind."), add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )["input_ids"]
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, -1]
        others = torch.cat([logits[:token], logits[token + 1 :]])
        expected.append(float(logits[token] - others.max()))
    found = opening_margins(model, tokenizer, PROMPTS, "Sorry", system_prompt="Be kind.", title=None, batch_size=2)
    assert found == pytest.approx(expected, abs=1e-5)
    with pytest.raises(ValueError, match="batch_size: must be 1 or more, got 0"):
        opening_margins(model, tokenizer, PROMPTS, "Sorry", batch_size=0)


@pytest.mark.parametrize("shift", [-5e-4, 5e-4])
def test_decoding_with_a_bias_turns_where_the_margin_says(tiny_model_dir, tokenizer, shift):
    """The curve would be of one thing, and the answers of another."""
    model, word = load(tiny_model_dir).eval(), tokenizer.decode([opening_token(tokenizer, "Sorry")]).strip()
    before = model.generation_config.to_dict()
    margins = opening_margins(model, tokenizer, PROMPTS, "Sorry", title=None)
    bias = shift - sorted(set(margins))[1]
    expected = [margin <= 0 < margin + bias for margin in margins]  # the others begin as they did
    given = [f"answer {number}" for number in range(len(PROMPTS))]
    answers = biased_answers(model, tokenizer, PROMPTS, given, "Sorry", bias, new_tokens=1)
    assert 0 < sum(expected) < len(PROMPTS)
    assert answers == [word if turned else one for turned, one in zip(expected, given, strict=True)]
    assert model.generation_config.to_dict() == before


@pytest.mark.parametrize(
    ("harmful", "benign", "bias", "j"),
    [
        ([1.0, 2.0], [-2.0, -1.0], 0.0, 1.0),  # nothing to gain: left alone
        ([3.0, 4.0], [1.0, 2.0], -2.5, 1.0),
        ([-2.0, -1.0], [-5.0, -4.0], 3.0, 1.0),
        ([1.0, 1.0], [1.0, 1.0], 0.0, 0.0),  # blind
        ([2.0], [3.0], 0.0, 0.0),  # the wrong way round: nobody is refused, or all are
    ],
)
def test_bias_has_the_highest_j_and_is_the_smallest_that_has(harmful, benign, bias, j):
    """One further from 0 than it needs to be has been fitted to nothing."""
    point = choose_bias(harmful, benign)
    assert (point.bias, point.youden_j) == (bias, j)
    assert point.unbiased_youden_j <= point.youden_j


def test_bias_needs_prompts_of_both_kinds():
    """Of one kind alone the best is to refuse all, or nothing."""
    with pytest.raises(ValueError, match=r"harmful and benign margins: must be 1 or more, got 0.*both kinds"):
        choose_bias([1.0], [])


def test_configuration_keeps_what_it_had_and_survives_a_file(tmp_path):
    """A bias given twice would stand beside the old one, and one under a tuple is no JSON."""
    own = GenerationConfig(do_sample=False, eos_token_id=[2], sequence_bias={(5,): 1.0, (7, 8): 2.0})
    before = own.to_dict()
    changed = with_bias(own, 5, -1.5)
    assert own.to_dict() == before
    changed.save_pretrained(tmp_path)
    read = GenerationConfig.from_pretrained(tmp_path)
    assert read.sequence_bias == [[[7, 8], 2.0], [[5], -1.5]]
    assert (read.eos_token_id, read.do_sample) == ([2], False)
