# SPDX-License-Identifier: Apache-2.0
"""How well a model predicts plain text, of nobody asking anything."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from ...models.backbone import frozen
from ...models.positions import require_room
from ...progress.bars import ProgressBar

_BATCH = 4  # logits of every position are in memory


class TextNats(NamedTuple):
    """
    Args:
        nats (`float`):
            Mean of -log p over the tokens, natural logarithm: the logarithm of the perplexity.
        tokens (`int`):
            Tokens that were predicted.
    """

    nats: float
    tokens: int


def text_nats(model: Any, tokenizer: Any, texts: Sequence[str], *, title: str | None = "plain text") -> list[TextNats]:
    """
    Returns the mean negative log-likelihood of each text, read as it is: without chat template or system prompt. The first
    token counts where the tokenizer puts one of its own in front of a text.

    Args:
        model (`PreTrainedModel` or `PeftModel`):
            Left in the mode that it is in.
        tokenizer (`PreTrainedTokenizerBase`):
            Of the model.
        texts (`Sequence[str]`):
            Of at least two tokens each.
        title (`str`, *optional*, defaults to `"plain text"`):
            Name of the progress bar; None for none.

    Raises:
        ValueError: If a text has fewer than two tokens, so that there is nothing to predict, or more than the positions that
            the model has learned.
    """
    rows = [tokenizer(text)["input_ids"] for text in texts]
    if short := [text for text, row in zip(texts, rows, strict=True) if len(row) < 2]:
        raise ValueError(
            f"plain text: {short[0]!r} has fewer than two tokens, so there is nothing to predict. Leave it out."
        )
    require_room(model, max(map(len, rows), default=0))
    found: list[TextNats] = []
    with frozen(model):
        for start in ProgressBar(range(0, len(rows), _BATCH), desc=title, unit="batch", disable=title is None):
            batch = rows[start : start + _BATCH]
            width = max(map(len, batch))
            ids = torch.tensor([row + [0] * (width - len(row)) for row in batch], device=model.device)
            mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in batch], device=model.device)
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
            logits = logits[:, -width:]  # behind virtual tokens of prompt tuning
            for row, told in zip(batch, logits, strict=True):
                told = told[: len(row) - 1]
                log_probs = told.to(torch.promote_types(told.dtype, torch.float32)).log_softmax(-1)
                labels = torch.tensor(row[1:], device=told.device)
                nats = -log_probs.gather(1, labels[:, None]).mean()
                found.append(TextNats(float(nats), len(labels)))
    return found
