# SPDX-License-Identifier: Apache-2.0
"""Student, teacher and base read the same responses; of each response, sums over its tokens are kept as a record."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from ...models.backbone import frozen, read_head, run_backbone
from ...models.token_map import embedding_rows
from ...progress.bars import ProgressBar
from ...views import LinearHead
from ..scoring.alignment import merged, tile_record
from .response_batches import causal_lm, response_batch

_ROWS, _TILE = 8, 128
_Active = Callable[[], AbstractContextManager[Any]]


@torch.no_grad()
def compare_models(
    student: _Active,
    teacher: _Active,
    tokenizer: Any,
    prompts: Sequence[str],
    responses: Sequence[str],
    *,
    base: _Active | None = None,
    teacher_tokenizer: Any = None,
    base_tokenizer: Any = None,
    system_prompt: str | None = None,
    max_tokens: int | None = None,
    title: str | None = None,
) -> list[dict[str, Any]]:
    """
    Compares a student with its teacher on responses, a record each (see
    [`~evaluation.scoring.alignment.alignment_record`]).

    Args:
        student, teacher, base (`Callable`):
            Each returns a context in which its model is ready, `with student() as model:`, so that adapters may be
            switched on one backbone. The base gives `gap_closed`.
        tokenizer, teacher_tokenizer, base_tokenizer (`PreTrainedTokenizerBase` or [`ChatFormat`]):
            With a chat template each; those of teacher and base are the student's by default. Each model reads the prompts
            in its own form, and the responses are the same tokens to all.
        prompts, responses (`Sequence[str]`):
            Row by row. A row whose response has no token gives no record.
        system_prompt (`str`, *optional*):
            Put before each prompt; a [`ChatFormat`] has its own.
        max_tokens (`int`, *optional*):
            Responses are cut after so many tokens.
        title (`str`, *optional*):
            Name of a progress bar; none without.

    Raises:
        ValueError: If a response is not the same tokens to all of them, or holds one that a model has no embedding for.
    """
    records: list[dict[str, Any]] = []
    for start in ProgressBar(range(0, len(prompts), _ROWS), desc=title, unit="batch", disable=title is None):
        rows = slice(start, start + _ROWS)
        hidden, heads = [], []
        sides = [(student, tokenizer), (teacher, teacher_tokenizer or tokenizer), (base, base_tokenizer or tokenizer)]
        first = None
        for active, asked in sides:
            if active is None:
                continue
            batch = response_batch(
                asked, prompts[rows], responses[rows], system_prompt=system_prompt, max_tokens=max_tokens
            )
            first = first or batch
            if batch.kept_labels.tolist() != first.kept_labels.tolist():
                raise ValueError(
                    "responses: are not the same tokens to student and teacher, so their predictions cannot be compared one "
                    "by one. Use a teacher with the same tokenizer."
                )
            with active() as model:
                lm = causal_lm(model)
                _require_rows(lm, batch.inputs["input_ids"])
                inputs = {name: value.to(lm.device) for name, value in batch.inputs.items()}
                with frozen(lm), read_head(lm) as head:
                    hidden.append(batch.keep(run_backbone(lm, inputs).last_hidden_state))
                    heads.append(head.detach())
        documents = batch.kept_documents  # the same for all
        for row in documents.unique().tolist():
            mine = (documents == row).nonzero().squeeze(1)
            records.append(merged([_tile(hidden, heads, tile) for tile in mine.split(_TILE)]))
    return records


def _require_rows(model: Any, ids: Tensor) -> None:
    """Raises ValueError where an id, of text or padding, lies behind the model's embedding."""
    rows, largest = embedding_rows(model), int(ids.max())
    if largest >= rows:
        raise ValueError(
            f"agreement with the teacher: {model.config.name_or_path or type(model).__name__} has embeddings for {rows} "
            f"tokens, and the tokenizer gave id {largest}, which it could not read. Compare models of one vocabulary."
        )


def _tile(hidden: list[Tensor], heads: list[LinearHead], tile: Tensor) -> dict[str, Any]:
    """The record of some positions; the logits of no others are in memory."""
    device = hidden[0].device  # the teacher may be on another one
    logits = [
        head.logits(states[tile.to(states.device)]).to(device) for states, head in zip(hidden, heads, strict=True)
    ]
    return tile_record(*logits)
