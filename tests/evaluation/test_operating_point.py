# SPDX-License-Identifier: Apache-2.0
"""A bias on the token that refusals begin with: which, and that decoding does with it what its margins say."""

import pytest
import torch
from peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model
from transformers import AutoTokenizer, GenerationConfig

from hf_ckt.evaluation.measuring.chat_format import chat
from hf_ckt.evaluation.measuring.generation import decoding
from hf_ckt.evaluation.operating_point import (
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


@pytest.mark.parametrize("kind", [PromptTuningConfig, PrefixTuningConfig])
def test_margins_of_virtual_tokens_do_not_depend_on_the_batch(tiny_model_dir, tokenizer, kind):
    """They stand before the padding of a shorter prompt, which would be read at other positions."""
    torch.manual_seed(0)
    config = kind(task_type="CAUSAL_LM", num_virtual_tokens=3)
    model = get_peft_model(load(tiny_model_dir).double(), config).double().eval()
    found = [opening_margins(model, tokenizer, PROMPTS, "Sorry", title=None, batch_size=size) for size in (1, 4)]
    assert found[0] == pytest.approx(found[1], abs=1e-9)


def test_token_is_the_one_behind_a_prompt(tokenizer):
    """A tokenizer that writes a space before a text's first word gives another token to the word alone."""

    class Spaced:
        """Knows "Sorry" behind a prompt, and " Sorry" at the beginning of a text."""

        def __getattr__(self, name):
            return getattr(tokenizer, name)

        def __call__(self, texts, **options):
            one = isinstance(texts, str)
            found = [
                [
                    *tokenizer(text.removesuffix("Sorry"), **options)["input_ids"],
                    *([900 if text == "Sorry" else 901] * text.endswith("Sorry")),
                ]
                for text in ([texts] if one else texts)
            ]
            return {"input_ids": found[0] if one else found}

    assert opening_token(Spaced(), "Sorry") == 901
    with pytest.raises(ValueError, match="opening: '' adds no token to a prompt"):
        opening_token(tokenizer, "")


def test_generate_decodes_by_the_saved_configuration(tiny_model_dir, tokenizer, tmp_path):
    """A file that `generate` reads otherwise is an operating point that nobody has measured."""
    model, token = load(tiny_model_dir).eval(), opening_token(tokenizer, "Sorry")
    model.generation_config.do_sample, model.generation_config.temperature = True, 5.0
    ids = tokenizer.apply_chat_template(
        chat(PROMPTS[1]), add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    (margin,) = opening_margins(model, tokenizer, PROMPTS[1:2], "Sorry", title=None)
    for shift in (-1e-3, 1e-3):
        greedy = decoding(model.generation_config, tokenizer)
        with_bias(greedy, token, shift - margin).save_pretrained(tmp_path)
        config = GenerationConfig.from_pretrained(tmp_path)
        first = model.generate(**ids, generation_config=config, max_new_tokens=1)[0, -1].item()
        assert (first == token) == (shift > 0)


@pytest.mark.parametrize(
    ("harmful", "benign", "bias", "j"),
    [
        ([1.0, 2.0], [-2.0, -1.0], 0.0, 1.0),  # nothing to gain: left alone
        ([3.0, 4.0], [1.0, 2.0], -2.5, 1.0),
        ([-2.0, -1.0], [-5.0, -4.0], 3.0, 1.0),
        ([1.0, 1.0], [1.0, 1.0], 0.0, 0.0),  # blind
        ([2.0], [3.0], 0.0, 0.0),  # the wrong way round: nobody is refused, or all are
        # As floats 1 - 2/3 is more than 1/3 - 0, and the bias would be 13.
        ([1.0, -5.0, -6.0], [-4.0, -3.0, -20.0], 0.0, 1 / 3),
    ],
)
def test_bias_has_the_highest_j_and_moves_no_further_than_it_must(harmful, benign, bias, j):
    """One further from 0 than it needs to be has been fitted to nothing."""
    point = choose_bias(harmful, benign)
    assert (point.bias, point.youden_j) == (bias, pytest.approx(j))
    assert point.unbiased_youden_j <= point.youden_j


def test_bias_needs_prompts_of_both_kinds():
    """Of one kind alone the best is to refuse all, or nothing."""
    with pytest.raises(ValueError, match=r"harmful and benign margins: must be 1 or more, got 0.*both kinds"):
        choose_bias([1.0], [])


def test_margins_and_biases_that_are_no_numbers_are_refused():
    """A NaN counts as answered whatever the bias, and J would be that of the prompts that are left."""
    with pytest.raises(ValueError, match="a margin is not finite, so no bias moves it"):
        choose_bias([1.0, float("nan")], [0.0])
    with pytest.raises(ValueError, match="bias"):
        with_bias(GenerationConfig(do_sample=False), 3, float("inf"))


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
