# SPDX-License-Identifier: Apache-2.0
"""Greedy answers: each prompt its own, in order, whatever shares its batch."""

import pytest
import torch
from transformers import AutoTokenizer

from hf_ckt.evaluation.measuring import answers
from hf_ckt.evaluation.measuring.answers import greedy_answers, plan_batches
from hf_ckt.evaluation.measuring.chat_format import chat
from tests.trainers import load


@pytest.fixture(scope="module")
def model(tiny_model_dir):
    return load(tiny_model_dir)


@pytest.fixture(scope="module")
def tokenizer(tiny_model_dir):
    return AutoTokenizer.from_pretrained(tiny_model_dir)


PROMPTS = ["How do I bake bread?", "Kill", "What is the best way to bake bread quickly and give it time?", "Help me"]


def test_answers_are_those_of_each_prompt_alone_in_order(model, tokenizer, monkeypatch):
    """Padding that is attended to, or answers sorted by length, would answer another question."""
    monkeypatch.setattr(answers, "_BATCH", 3)
    model.train()
    found = greedy_answers(model, tokenizer, PROMPTS, system_prompt="be brief", new_tokens=5)
    assert model.training and tokenizer.padding_side == "right"
    model.eval()
    for prompt, answer in zip(PROMPTS, found, strict=True):
        ids = tokenizer.apply_chat_template(
            chat(prompt, "be brief"), add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )["input_ids"]
        length = ids.shape[1]
        with torch.no_grad():
            for _ in range(5):
                following = model(input_ids=ids).logits[:, -1].argmax(-1, keepdim=True)
                ids = torch.cat([ids, following], 1)
                if following.item() == model.generation_config.eos_token_id:
                    break
        assert answer == tokenizer.decode(ids[0, length:], skip_special_tokens=True).strip()
    assert len(set(found)) > 1


def test_chat_without_a_system_prompt_has_only_the_user():
    """An empty system message is not the same prompt as none."""
    assert chat("hi") == [{"role": "user", "content": "hi"}]
    assert [message["role"] for message in chat("hi", "")] == ["system", "user"]


def test_batches_depend_on_the_prompts_alone(tokenizer, monkeypatch):
    """A batch that depends on order or on what is done already gives a resumed run other padding, and other answers."""
    monkeypatch.setattr(answers, "_BATCH", 2)
    plan = plan_batches(tokenizer, PROMPTS, new_tokens=5)
    assert plan == plan_batches(tokenizer, [*reversed(PROMPTS), *PROMPTS[:2]], new_tokens=5)
    assert sorted(prompt for batch, _ in plan for prompt in batch) == sorted(PROMPTS)
    assert [len(batch) for batch, _ in plan] == [2, 2]


def test_long_prompts_make_small_batches(tokenizer, monkeypatch):
    """A batch as wide as its longest jailbreak prompt and as tall as ever would not fit."""
    monkeypatch.setattr(answers, "_BATCH_TOKENS", 100)
    long = [f"{'bread and water and ' * 10}{index}" for index in range(3)]
    plan = plan_batches(tokenizer, ["a", "b", *long], new_tokens=5)
    lengths = {
        prompt: len(
            tokenizer.apply_chat_template(chat(prompt), add_generation_prompt=True, return_dict=True)["input_ids"]
        )
        for batch, _ in plan
        for prompt in batch
    }
    for batch, size in plan:
        assert size == len(batch) * (max(lengths[prompt] for prompt in batch) + 5)
        assert size <= 100 or len(batch) == 1
    assert len(plan) > 2


def test_no_prompts_are_no_batches(tokenizer):
    """An empty suite should ask nothing, not fail in the tokenizer."""
    assert plan_batches(tokenizer, [], new_tokens=5) == []
