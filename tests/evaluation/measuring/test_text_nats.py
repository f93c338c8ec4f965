# SPDX-License-Identifier: Apache-2.0
"""Plain text: each passage's loss alone, whatever it is batched with."""

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from hf_ckt.evaluation.measuring.text_nats import text_nats

TEXTS = [
    "Mix flour and water.",
    "The best way to bake bread is to give it time, and a hot oven, and to leave it alone.",
    "Rest.  Then\nbake.",
    "Kill the process first.",
    "Find its number, then call for help.",
]


@pytest.mark.parametrize("kind", ["model", "lora", "prompt tuning"])
def test_text_nats_are_those_of_each_text_alone(kind, tiny_model_dir):
    """Padding that counts, or labels shifted by one, give a number that still looks like a perplexity."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float64)
    if kind == "lora":
        model = get_peft_model(model, LoraConfig(target_modules=["q_proj", "lm_head"], r=4, init_lora_weights=False))
    if kind == "prompt tuning":
        model = get_peft_model(model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)).double()
    model.train()
    told = text_nats(model, tokenizer, TEXTS, title=None)
    assert model.training
    model.eval()
    for text, found in zip(TEXTS, told, strict=True):
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, -ids.shape[1] :]
        loss = torch.nn.functional.cross_entropy(logits[:-1], ids[0, 1:])
        assert found.tokens == ids.shape[1] - 1
        assert found.nats == pytest.approx(float(loss), abs=1e-6)


def test_text_without_anything_to_predict_raises(tiny_model_dir):
    """A mean over nothing would be NaN in the table."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    with pytest.raises(ValueError, match="plain text: '' has fewer than two tokens"):
        text_nats(model, tokenizer, [""], title=None)


def test_text_longer_than_the_learned_positions_raises(tiny_model_dir):
    """An index error deep in the model does not say that the passage is too long for it."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    sizes = {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 32, "bos_token_id": None, "eos_token_id": None}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **sizes))
    assert len(text_nats(model, tokenizer, ["Rest."], title=None)) == 1
    with pytest.raises(ValueError, match="the model has learned 32 positions"):
        text_nats(model, tokenizer, ["Rest.", "Mix flour. " * 20], title=None)
