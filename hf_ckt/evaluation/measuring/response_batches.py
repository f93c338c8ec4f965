# SPDX-License-Identifier: Apache-2.0
"""Prompts with given responses as padded batches, of which the responses' tokens are kept."""

from collections.abc import Sequence
from typing import Any

import torch

from ...models.batch import Batch
from .chat_format import chat_format


def response_batch(
    tokenizer: Any,
    prompts: Sequence[str],
    responses: Sequence[str],
    *,
    system_prompt: str | None = None,
    max_tokens: int | None = None,
    device: Any = "cpu",
) -> Batch:
    """
    Returns prompts with responses, padded on the right; the responses' tokens are the labels.

    Args:
        tokenizer (`PreTrainedTokenizerBase` or [`ChatFormat`]):
            With a chat template. A response stands where an answer does, behind the thought of a model that thinks.
        prompts, responses (`Sequence[str]`):
            Row by row.
        system_prompt (`str`, *optional*):
            Put before each prompt; a [`ChatFormat`] has its own.
        max_tokens (`int`, *optional*):
            Responses are cut after so many tokens.
        device (`torch.device`, *optional*, defaults to `"cpu"`):
            Where the batch goes.
    """
    rows = []
    asked = chat_format(tokenizer, system_prompt)
    for before, response in zip(asked.ids(prompts, answering=True), responses, strict=True):
        rows.append((before, asked.tokenizer(response, add_special_tokens=False)["input_ids"][:max_tokens]))
    width = max(len(before) + len(after) for before, after in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    labels, mask = torch.full_like(ids, -100), torch.zeros_like(ids)
    for row, (before, after) in enumerate(rows):
        ids[row, : len(before) + len(after)] = torch.tensor(before + after)
        labels[row, len(before) : len(before) + len(after)] = torch.tensor(after)
        mask[row, : len(before) + len(after)] = 1
    return Batch({"input_ids": ids.to(device), "attention_mask": mask.to(device)}, labels.to(device))


def causal_lm(model: Any) -> Any:
    """Returns the causal language model inside a `PeftModel`, with its adapters as they are, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
