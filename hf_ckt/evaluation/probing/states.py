# SPDX-License-Identifier: Apache-2.0
"""What a frozen model makes of prompts, read once for all layers that a probe may look at."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from ...models._upstream import adapters_disabled, keep_4bit_differentiable
from ...models.backbone import frozen
from ...models.boundary_probe import prompt_features
from ...models.positions import require_room
from ..measuring.chat_format import ChatFormat
from ..measuring.probe_odds import prompt_batch
from ..measuring.response_batches import causal_lm

if TYPE_CHECKING:
    import numpy as np


def prompt_ids(chat: ChatFormat, prompts: Sequence[Any]) -> list[list[int]]:
    """
    Returns the tokens of prompts, each a text or messages, up to where the model answers.

    Raises:
        ValueError: If the chat template cannot write one of them.
    """
    texts = []
    for prompt in prompts:
        if isinstance(prompt, str):
            messages = chat.messages(prompt)
        else:
            said = [] if chat.system_prompt is None or prompt[0]["role"] == "system" else [chat.system_prompt]
            messages = chat.placed([*({"role": "system", "content": text} for text in said), *prompt])
        try:
            texts.append(chat.text(messages))
        except Exception as error:  # a template may raise what it likes
            raise ValueError(
                f"prompt: the chat template cannot write {prompt!r:.80} ({type(error).__name__}: {error}), so the model cannot be "
                "asked it. Write what each message says as one text, or drop the row."
            ) from error
    return chat.tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []


def read_states(model: Any, ids: Sequence[Sequence[int]], layers: Sequence[int], batch_size: int = 32) -> "np.ndarray":
    """
    Returns what a probe reads of prompts, `(n, L, 2 * D)`: of each layer the state at the last token and the prompt's mean,
    as [`~models.boundary_probe.prompt_features`] gives them in training.

    float16, or float32 where a state does not fit into that. Adapters are switched off. The order of the prompts does not
    matter, since batches are made by length and content.

    Args:
        model (`PreTrainedModel`):
            Causal language model. 4-bit layers on a CPU are put into the layout that can be trained, and stay in it.
        ids (`Sequence[Sequence[int]]`):
            Tokens of each prompt.
        layers (`Sequence[int]` of length L):
            Whose states are read.
        batch_size (`int`, *optional*, defaults to `32`):
            Prompts a pass.

    Raises:
        ValueError: If a prompt does not fit the positions that the model has learned.
    """
    import numpy as np

    from ...progress.bars import ProgressBar

    inner = causal_lm(model)
    require_room(inner, 1 + max(map(len, ids), default=0))
    keep_4bit_differentiable(inner)  # as a trainer reads it, and still able to be trained
    device = inner.get_input_embeddings().weight.device
    order = sorted(range(len(ids)), key=lambda row: (len(ids[row]), list(ids[row])))
    parts: list[torch.Tensor] = []
    with (
        frozen(inner),
        adapters_disabled(inner),
        ProgressBar(total=len(ids), desc="Reading prompts", unit="prompt") as bar,
    ):
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            batch = prompt_batch([ids[row] for row in rows], device)
            states = inner.base_model(**batch.inputs, use_cache=False, output_hidden_states=True).hidden_states
            _, features = prompt_features(states, batch, layers)
            halves = features.half()
            parts.append((halves if halves.isfinite().all() else features).cpu())
            bar.update(len(rows))
    values = torch.cat(parts).view(len(ids), len(layers), -1).numpy()
    back = np.empty(len(order), dtype=np.int64)
    back[order] = np.arange(len(order))
    return values[back]
