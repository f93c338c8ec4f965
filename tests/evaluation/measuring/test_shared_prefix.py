# SPDX-License-Identifier: Apache-2.0
"""A common beginning that is read once: the same answers and log-odds as where every prompt is read whole."""

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_ckt.evaluation.measuring import shared_prefix
from hf_ckt.evaluation.measuring.answers import answer_batch, plan_batches
from hf_ckt.evaluation.measuring.chat_format import chat_format
from hf_ckt.evaluation.measuring.refusal_openings import decisions, refusal_leanings
from hf_ckt.evaluation.measuring.shared_prefix import prefix_groups, shared_length

STORY = "Mix flour with water and yeast, give it time to rest, and call for help when the process does not stop. "
REQUESTS = ["Bake bread.", "Kill the process", "How do I find its number quickly?", "Help", "Rest first, then mix."]


@pytest.fixture
def tokenizer(tiny_model_dir):
    return AutoTokenizer.from_pretrained(tiny_model_dir)


def mpt():
    """Its distances between tokens are those of their columns, padding counted."""
    from transformers import MptConfig, MptForCausalLM

    return MptForCausalLM(MptConfig(d_model=32, n_heads=4, n_layers=2, vocab_size=200, initializer_range=0.5))


def gpt_neo():
    """Every other layer looks back over so many columns, padding counted, and yet keeps all keys."""
    from transformers import GPTNeoConfig, GPTNeoForCausalLM

    sizes = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "vocab_size": 200, "initializer_range": 0.5}
    ids = {"bos_token_id": None, "eos_token_id": None}
    return GPTNeoForCausalLM(GPTNeoConfig(attention_types=[[["global", "local"], 1]], window_size=16, **sizes, **ids))


def build(kind, tiny_model_dir, tiny_gemma2_dir):
    torch.manual_seed(0)
    if kind in ("mpt", "gpt neo"):
        return {"mpt": mpt, "gpt neo": gpt_neo}[kind]().eval()
    folder = tiny_gemma2_dir if kind == "gemma2" else tiny_model_dir
    dtype = torch.float32 if kind == "gemma2" else torch.float64
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    adapters = {
        "lora": LoraConfig(target_modules=["q_proj", "v_proj", "lm_head"], r=4, init_lora_weights=False),
        "prompt tuning": PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
        "prefix tuning": PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    }
    return (get_peft_model(model, adapters[kind]).to(dtype) if kind in adapters else model).eval()


@pytest.mark.parametrize("kind", ["llama", "lora", "gemma2", "mpt", "gpt neo", "prompt tuning", "prefix tuning"])
def test_shared_beginning_changes_no_answer_and_no_log_odds(
    kind, tiny_model_dir, tiny_gemma2_dir, tokenizer, monkeypatch
):
    """Padding that is attended to or counted as a distance, or shifted positions, give other answers."""
    model = build(kind, tiny_model_dir, tiny_gemma2_dir)
    prompts = [STORY + request for request in REQUESTS]
    found = {}
    for least in (10**9, 16):
        monkeypatch.setattr(shared_prefix, "LEAST_TOKENS", least)
        found[least] = (
            answer_batch(model, tokenizer, prompts, system_prompt="be brief", new_tokens=6),
            refusal_leanings(model, tokenizer, prompts, system_prompt="be brief", title=None),
        )
    whole, shared = found.values()
    assert shared[0] == whole[0] and len({answer.text for answer in whole[0]}) > 1
    for one, other in zip(whole[1], shared[1], strict=True):
        assert one == pytest.approx(other, abs=1e-4 if kind in ("gemma2", "mpt", "gpt neo") else 1e-9)


def test_shared_beginning_is_read_once(tiny_model_dir, tiny_gemma2_dir, tokenizer, monkeypatch):
    """The tokens of a jailbreak template, hundreds, would be read again for each of its requests."""
    monkeypatch.setattr(shared_prefix, "LEAST_TOKENS", 16)
    model = build("llama", tiny_model_dir, tiny_gemma2_dir)
    read = []
    model.model.embed_tokens.register_forward_hook(lambda _m, args, _o: read.append(args[0].numel()))
    prompts = [STORY + request for request in REQUESTS]
    answer_batch(model, tokenizer, prompts, new_tokens=1)
    rows = [
        tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True)["input_ids"]
        for text in prompts
    ]
    shared = shared_length(rows)
    assert shared > 50 and read[0] == shared
    assert sum(read[1:]) == len(rows) * (max(map(len, rows)) - shared)


def test_prompts_that_begin_alike_are_planned_together(tokenizer, monkeypatch):
    """Mixed with others of their length, they would share nothing."""
    monkeypatch.setattr(shared_prefix, "LEAST_TOKENS", 16)
    others = [f"{STORY[number:]} {request}" for number, request in enumerate(REQUESTS, start=3)]
    prompts = [text for pair in zip((STORY + request for request in REQUESTS), others, strict=True) for text in pair]
    batches = [batch for batch, _ in plan_batches(tokenizer, prompts, new_tokens=4)]
    assert sorted(text for batch in batches for text in batch) == sorted(prompts)
    mine = [batch for batch in batches if any(text.startswith(STORY) for text in batch)]
    assert len(mine) == 1 and sorted(mine[0]) == sorted(STORY + request for request in REQUESTS)
    assert batches == [batch for batch, _ in plan_batches(tokenizer, prompts[::-1], new_tokens=4)]


def test_log_odds_are_read_of_prompts_that_begin_alike(tiny_model_dir, tiny_gemma2_dir, tokenizer, monkeypatch):
    """A batch across two templates begins alike no longer, and each of its hundreds of tokens would be read for each request."""
    monkeypatch.setattr(shared_prefix, "LEAST_TOKENS", 16)
    model = build("llama", tiny_model_dir, tiny_gemma2_dir)
    stories = (STORY, STORY[4:])
    prompts = [story + request for request in REQUESTS for story in stories]
    asked = chat_format(tokenizer, None)
    batches = [batch for batch, _ in decisions(model, asked, prompts, title=None, batch_size=64)]
    assert sorted(map(sorted, batches)) == sorted(sorted(story + request for request in REQUESTS) for story in stories)
    sizes = [len(batch) for batch, _ in decisions(model, asked, prompts, title=None, batch_size=4)]
    assert sorted(sizes) == [1, 1, 4, 4]


def test_rows_that_are_few_or_hardly_alike_are_read_whole(monkeypatch):
    """A pass for a handful of tokens, or for two rows, costs more than it saves."""
    monkeypatch.setattr(shared_prefix, "LEAST_TOKENS", 4)
    rows = [[1, 2, 3, 4, 5, last] for last in range(6)]
    assert shared_length(rows) == 5 and prefix_groups(rows) == [(1, 2, 3, 4)] * 6
    assert shared_length(rows[:3]) == 0 and prefix_groups(rows[:3]) == [()] * 3
    assert shared_length([row[2:] for row in rows]) == 0
    # Rows that are the beginning of another one keep a token to be read.
    assert shared_length([[1, 2, 3, 4, 5, 6, 7], *[[1, 2, 3, 4, 5, 6]] * 3]) == 5
