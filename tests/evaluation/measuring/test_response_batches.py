# SPDX-License-Identifier: Apache-2.0
"""Batches of which the responses' tokens are kept."""

import pytest
import torch
from transformers import AutoTokenizer

from hf_ckt.evaluation.measuring.response_batches import causal_lm, response_batch
from tests.trainers import load, lora

PROMPTS, RESPONSES = ["How do I bake bread?", "Help"], ["Mix flour and water.", "I cannot."]


@pytest.fixture(scope="module")
def tokenizer(tiny_model_dir):
    return AutoTokenizer.from_pretrained(tiny_model_dir)


def test_response_batch_keeps_the_response_and_nothing_else(tokenizer):
    """A prompt's tokens among those kept would measure how the model reads, not how it answers."""
    batch = response_batch(tokenizer, PROMPTS, RESPONSES, system_prompt="be brief")
    ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
    for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        text = tokenizer.decode(ids[row][mask[row].bool()])
        start = (
            f"<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
        )
        assert text == start + response
        kept = batch.kept_labels[batch.kept_documents == row]
        assert tokenizer.decode(kept) == response
        assert (mask[row].diff() <= 0).all()  # padded on the right, so positions count from the first token


def test_response_batch_cuts_long_responses(tokenizer):
    """A limit on all tokens would leave nothing of the answer to a long prompt."""
    batch = response_batch(tokenizer, PROMPTS, RESPONSES, max_tokens=3)
    assert batch.kept_documents.tolist() == [0, 0, 0, 1, 1, 1]
    whole = response_batch(tokenizer, PROMPTS, RESPONSES)
    for row in (0, 1):
        first = whole.kept_labels[whole.kept_documents == row][:3]
        assert batch.kept_labels[batch.kept_documents == row].equal(first)


def test_response_batch_of_an_empty_response_keeps_nothing_of_its_row(tokenizer):
    """The token after the prompt would be taken for the answer."""
    batch = response_batch(tokenizer, PROMPTS, ["", "I cannot."])
    assert batch.kept_documents.unique().tolist() == [1]
    with pytest.raises(ValueError, match=r"shorter|longer"):
        response_batch(tokenizer, PROMPTS, RESPONSES[:1])


def test_causal_lm_leaves_the_adapter_on(tiny_model_dir):
    """The model inside an adapter's wrapper, were it the plain base, would be compared with itself."""
    from peft import get_peft_model

    torch.manual_seed(0)
    model = load(tiny_model_dir).eval()
    ids = torch.tensor([[5, 6, 7]])
    plain = model(ids).logits
    wrapped = get_peft_model(model, lora())
    assert causal_lm(model) is model and causal_lm(wrapped) is not wrapped
    assert causal_lm(wrapped)(ids).logits.equal(wrapped(ids).logits) and not wrapped(ids).logits.equal(plain)
