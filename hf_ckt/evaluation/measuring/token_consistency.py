# SPDX-License-Identifier: Apache-2.0
"""How much the prediction of a response moves when its prompt is corrupted."""

import math
from collections.abc import Sequence
from typing import Any

from ...discovery import load_part
from ...kernels import chunked_token_losses
from ...models.backbone import frozen, read_head, run_backbone
from ...progress.bars import ProgressBar
from .response_batches import causal_lm, response_batch

_BATCH = 16


def token_consistency(
    model: Any,
    tokenizer: Any,
    clean: Sequence[str],
    noisy: Sequence[str],
    responses: Sequence[str],
    *,
    system_prompt: str | None = None,
    title: str | None = "token consistency",
) -> list[float]:
    """
    Returns 1 - Jensen-Shannon divergence (base 2) between the predictions of a response after the clean and after the
    corrupted prompt, averaged over the response's tokens, for each row; in [0, 1], 1 where nothing moved.

    It saturates near 1 while answers already change, so it stands beside rates and never in their place.

    Args:
        model (`PreTrainedModel` or `PeftModel`):
            Left in the mode that it is in.
        tokenizer (`PreTrainedTokenizerBase` or [`ChatFormat`]):
            With a chat template.
        clean, noisy, responses (`Sequence[str]`):
            Row by row: the prompt, the corrupted prompt, and the response that is predicted after both.
        system_prompt (`str`, *optional*):
            Put before each prompt; a [`ChatFormat`] has its own.
        title (`str`, *optional*, defaults to `"token consistency"`):
            Name of the progress bar; None for none.
    """
    loss = load_part("losses", "jensen_shannon")(beta=0.5)
    base = causal_lm(model)
    values: list[float] = []
    with frozen(model):
        for start in ProgressBar(range(0, len(clean), _BATCH), desc=title, unit="batch", disable=title is None):
            rows = slice(start, start + _BATCH)
            batches = [
                response_batch(
                    tokenizer, side[rows], responses[rows], system_prompt=system_prompt, device=model.device
                )
                for side in (clean, noisy)
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
    return values
