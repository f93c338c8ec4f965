# SPDX-License-Identifier: Apache-2.0
"""The models that the tests stand on."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_ckt.models.embedded import find_gguf

CHAT = [
    {"role": "user", "content": "How do I kill a process?"},
    {"role": "assistant", "content": "Find its number, ~then~ {end} it.\n"},
]


@pytest.mark.parametrize("fixture", ["tiny_model_dir", "tiny_gemma2_dir"])
def test_tiny_model_reads_back_what_its_tokenizer_writes(fixture, request):
    """A tokenizer that drops characters would make a test of text noise pass on empty prompts."""
    folder = request.getfixturevalue(fixture)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    every_character = "".join(map(chr, range(32, 127))) + "\n"
    assert tokenizer.decode(tokenizer(every_character)["input_ids"]) == every_character
    assert model.get_output_embeddings().weight.shape == (len(tokenizer), 32)
    assert model(torch.arange(10)[None]).logits.std() > 0.1  # far from the uniform prediction


def test_chat_template_marks_the_assistants_tokens(tiny_model_dir):
    """`assistant_only_loss` with no marked token trains on nothing."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    encoded = tokenizer.apply_chat_template(CHAT, return_dict=True, return_assistant_tokens_mask=True)
    kept = [i for i, keep in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True) if keep]
    assert tokenizer.decode(kept) == CHAT[1]["content"] + "<|im_end|>"
    prompt = tokenizer.apply_chat_template(CHAT[:1], add_generation_prompt=True, tokenize=False)
    assert tokenizer.apply_chat_template(CHAT, tokenize=False).startswith(prompt)


def test_smollm2_answers_in_english(smollm2_dir):
    """A conversion that mixes up two weights still loads, and every later number is about noise."""
    tokenizer = AutoTokenizer.from_pretrained(smollm2_dir)
    model = AutoModelForCausalLM.from_pretrained(smollm2_dir, dtype=torch.float32)
    messages = [{"role": "user", "content": "What is the capital of France? Answer with one word."}]
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    output = model.generate(**inputs, max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(output[0, inputs["input_ids"].shape[1] :])
    assert find_gguf() is not None
