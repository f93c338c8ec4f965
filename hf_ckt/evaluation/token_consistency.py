# SPDX-License-Identifier: Apache-2.0
"""How much the prediction of a response moves when its prompt is corrupted."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from tqdm import tqdm

from ..backbone import read_head, run_backbone
from ..discovery import load_part
from ..kernels import chunked_token_losses
from ..views import Batch
from .answers import chat

_BATCH = 16


@torch.no_grad()
def token_consistency(
    model: Any,
    tokenizer: Any,
    clean: Sequence[str],
    noisy: Sequence[str],
    responses: Sequence[str],
    *,
    system_prompt: str | None = None,
    title: str = "token consistency",
) -> list[float]:
    """
    Returns 1 - Jensen-Shannon divergence (base 2) between the predictions of a response after the clean and after the
    corrupted prompt, averaged over the response's tokens, for each row; in [0, 1], 1 where nothing moved.

    It saturates near 1 while answers already change, so it stands beside rates and never in their place.

    Args:
        model (`PreTrainedModel` or `PeftModel`):
            Left in the mode that it is in.
        tokenizer (`PreTrainedTokenizerBase`):
            With a chat template.
        clean, noisy, responses (`Sequence[str]`):
            Row by row: the prompt, the corrupted prompt, and the response that is predicted after both.
        system_prompt (`str`, *optional*):
            Put before each prompt.
        title (`str`, *optional*, defaults to `"token consistency"`):
            Name of the progress bar.
    """
    loss = load_part("losses", "jensen_shannon")(beta=0.5)
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    was_training = model.training
    model.eval()
    values: list[float] = []
    for start in tqdm(range(0, len(clean), _BATCH), desc=title, unit="batch"):
        rows = slice(start, start + _BATCH)
        batches = [
            _batch(tokenizer, side[rows], responses[rows], system_prompt, model.device) for side in (clean, noisy)
        ]
        states = [batch.keep(run_backbone(base, batch.inputs).last_hidden_state) for batch in batches]
        labels, documents = batches[0].kept_labels, batches[0].kept_documents
        with read_head(base) as head:
            for row in range(len(batches[0].labels)):
                mine = documents == row
                told = chunked_token_losses(
                    {loss: 1.0},
                    states[0][mine],
                    head,
                    labels[mine],
                    teacher_hidden=states[1][mine],
                    teacher_head=head,
                    compile=False,
                )
                values.append(1 - float(told.total) / math.log(2))
    model.train(was_training)
    return values


def _batch(
    tokenizer: Any, prompts: Sequence[str], responses: Sequence[str], system_prompt: str | None, device: Any
) -> Batch:
    """Prompts with responses, padded on the right; the responses' tokens are kept."""
    rows = []
    for prompt, response in zip(prompts, responses, strict=True):
        before = tokenizer.apply_chat_template(
            chat(prompt, system_prompt), tokenize=True, return_dict=True, add_generation_prompt=True
        )["input_ids"]
        after = tokenizer(response, add_special_tokens=False)["input_ids"]
        rows.append((before, after))
    width = max(len(before) + len(after) for before, after in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    labels, mask = torch.full_like(ids, -100), torch.zeros_like(ids)
    for row, (before, after) in enumerate(rows):
        ids[row, : len(before) + len(after)] = torch.tensor(before + after)
        labels[row, len(before) : len(before) + len(after)] = torch.tensor(after)
        mask[row, : len(before) + len(after)] = 1
    return Batch({"input_ids": ids.to(device), "attention_mask": mask.to(device)}, labels.to(device))
