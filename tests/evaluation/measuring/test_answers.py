# SPDX-License-Identifier: Apache-2.0
"""Greedy answers: each prompt its own, in order, whatever shares its batch."""

import copy

import pytest
import torch
from transformers import AutoTokenizer

from hf_ckt.evaluation.measuring import answers
from hf_ckt.evaluation.measuring.answers import Answer, greedy_answers, plan_batches
from hf_ckt.evaluation.measuring.chat_format import ChatFormat, chat
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


def _script(model, *passes):
    """
    Has a model write given tokens, row by row, one list of rows for each call of `generate`; each row is asked for as many
    as it is read, and then writes the last one again.
    """
    state = {"call": -1, "step": 0}

    def begin(module, args, kwargs):
        if kwargs["input_ids"].shape[1] > 1:  # a prompt is read
            state.update(call=state["call"] + 1, step=0)

    def write(module, args, output):
        output = torch.full_like(output, -100.0)
        for row, ids in enumerate(passes[state["call"]]):
            output[row, -1, ids[min(state["step"], len(ids) - 1)]] = 100.0
        state["step"] += 1
        return output

    handles = [model.register_forward_pre_hook(begin, with_kwargs=True), model.lm_head.register_forward_hook(write)]
    return handles, state


@pytest.mark.parametrize("pad", ["own", "end"])
def test_thoughts_have_room_of_their_own(pad, model, tokenizer):
    """A thought that is cut where an answer is, or an answer that is given the room of a thought, is judged half said."""
    tokenizer = copy.deepcopy(tokenizer)
    if pad == "end":  # a row that has stopped is padded with what ends an answer
        tokenizer.pad_token = tokenizer.eos_token
    asked = ChatFormat(tokenizer, thinking_tokens=40)
    end = tokenizer.eos_token_id

    def ids(text):
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    long = ids("<think>" + "hum " * 40)
    first = [ids("<think>No?</think>"), long, [*ids("Bake it now and then rest"), end], [*ids("<think>Eh"), end]]
    second = [[*ids(" Mix flour and water."), end], [*ids("Find it"), end]]
    handles, state = _script(model, first, second)
    try:
        found = answers.answer_batch(model, asked, PROMPTS, new_tokens=10)
    finally:
        for handle in handles:
            handle.remove()
    cut = tokenizer.decode(ids(" Mix flour and water.")[:10]).strip()
    assert found[0] == Answer(cut, "No?")
    assert found[1] == Answer("Find it", tokenizer.decode(long[:40]).removeprefix("<think>").strip())
    assert found[2] == Answer(tokenizer.decode(ids("Bake it now and then rest")[:10]).strip())
    assert found[3] == Answer("", "Eh")
    assert state["call"] == 1


def test_models_that_do_not_think_are_asked_once(model, tokenizer, monkeypatch):
    """A second pass, or more tokens than an answer has, would double the time of every evaluation."""
    calls, generate = [], type(model).generate

    def counted(self, **kwargs):
        calls.append(generate(self, **kwargs))
        return calls[-1]

    monkeypatch.setattr(type(model), "generate", counted)
    width = max(len(ids) for ids in ChatFormat(tokenizer).ids(PROMPTS))
    answers.answer_batch(model, tokenizer, PROMPTS, new_tokens=5)
    assert len(calls) == 1 and calls[0].shape[1] <= width + 5


def test_switched_off_thought_is_closed_before_the_answer(model, tokenizer):
    """Without its switch a template that opens a thought would have every answer written inside it."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "<|im_start|>assistant\n' }}", "<|im_start|>assistant\n<think>\n' }}"
    )
    asked = ChatFormat(tokenizer, thinking_tokens=0)
    assert asked.text(asked.messages("Help")).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert all(answer.reasoning is None for answer in answers.answer_batch(model, asked, PROMPTS, new_tokens=4))


def test_room_for_a_thought_is_not_asked_of_a_model_that_has_none(tokenizer):
    """A model with few positions would be refused for thoughts that it never writes."""
    from transformers import GPT2Config, GPT2LMHeadModel

    width = max(len(ids) for ids in ChatFormat(tokenizer).ids(PROMPTS))
    sizes = {"n_positions": width + 6, "n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": len(tokenizer)}
    torch.manual_seed(0)
    small = GPT2LMHeadModel(GPT2Config(**sizes, eos_token_id=2, bos_token_id=1)).eval()
    assert len(answers.answer_batch(small, tokenizer, PROMPTS, new_tokens=6)) == len(PROMPTS)
    with pytest.raises(ValueError, match=rf"{width + 7} tokens.* learned {width + 6} positions"):
        answers.answer_batch(small, tokenizer, PROMPTS, new_tokens=7)
