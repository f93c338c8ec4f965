# SPDX-License-Identifier: Apache-2.0
"""Token consistency: 1 where nothing moved, and by hand where something did."""

import math

import pytest
import torch
from transformers import AutoTokenizer

from hf_ckt.evaluation.measuring import token_consistency as module
from hf_ckt.evaluation.measuring.chat_format import chat
from hf_ckt.evaluation.measuring.token_consistency import token_consistency
from tests.trainers import load

CLEAN = ["How do I bake bread?", "Kill a process", "Help"]
NOISY = ["hOW do I bke bread?", "a Kill process", "Help"]
RESPONSES = ["Mix flour and water.", "Find its number first, then end it.", "I cannot."]


@pytest.mark.parametrize("folder", ["tiny_model_dir", "tiny_gemma2_dir"])
def test_token_consistency_is_one_minus_jsd_in_bits(folder, request, monkeypatch):
    """In nats, the worst consistency would be 0.31; without the cap of Gemma, another model's."""
    monkeypatch.setattr(module, "_BATCH", 2)
    path = request.getfixturevalue(folder)
    model, tokenizer = load(path, attn_implementation="eager"), AutoTokenizer.from_pretrained(path)
    found = token_consistency(model, tokenizer, CLEAN, NOISY, RESPONSES, system_prompt="be brief")
    model.eval()
    for clean, noisy, response, value in zip(CLEAN, NOISY, RESPONSES, found, strict=True):
        after = tokenizer(response, add_special_tokens=False)["input_ids"]
        views = []
        for prompt in (clean, noisy):
            before = tokenizer.apply_chat_template(
                chat(prompt, "be brief"), tokenize=True, return_dict=True, add_generation_prompt=True
            )["input_ids"]
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([before + after])).logits[0].double()
            views.append(logits[len(before) - 1 : -1].softmax(-1))
        total = 0.0
        for p, q in zip(*(view.tolist() for view in views), strict=True):
            for a, b in zip(p, q, strict=True):
                middle = (a + b) / 2
                total += (a * math.log2(a / middle) + b * math.log2(b / middle)) / 2
        assert value == pytest.approx(1 - total / len(after), abs=1e-5)
    assert found[0] < 0.999 and found[2] == pytest.approx(1, abs=1e-6)


def test_token_consistency_leaves_the_model_in_its_mode(tiny_model_dir):
    """An evaluation in the middle of training that switches dropout off changes the rest of it."""
    model, tokenizer = load(tiny_model_dir).train(), AutoTokenizer.from_pretrained(tiny_model_dir)
    token_consistency(model, tokenizer, CLEAN[:1], NOISY[:1], RESPONSES[:1])
    assert model.training
