# SPDX-License-Identifier: Apache-2.0
"""What a frozen model makes of prompts, read once for all layers that a probe may look at."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from ...models._upstream import adapters_disabled
from ...models.backbone import frozen
from ...models.batch import Batch, padded
from ...models.boundary_probe import prompt_features
from ..measuring.chat_format import ChatFormat
from ..measuring.response_batches import causal_lm

if TYPE_CHECKING:
    import numpy as np


def prompt_ids(chat: ChatFormat, prompts: Sequence[Any]) -> list[list[int]]:
    """Returns the tokens of prompts, each a text or messages, up to where the model answers."""
    texts = []
    for prompt in prompts:
        if isinstance(prompt, str):
            messages = chat.messages(prompt)
        else:
            said = [] if chat.system_prompt is None or prompt[0]["role"] == "system" else [chat.system_prompt]
            messages = chat.placed([*({"role": "system", "content": text} for text in said), *prompt])
        texts.append(chat.text(messages))
    return chat.tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []


def read_states(model: Any, ids: Sequence[Sequence[int]], layers: Sequence[int], batch_size: int = 32) -> "np.ndarray":
    """
    Returns what a probe reads of prompts, `(n, L, 2 * D)`: of each layer the state at the last token and the prompt's mean,
    as [`~models.boundary_probe.prompt_features`] gives them in training.

    float16, of which a state that does not fit makes a layer float32. Adapters are switched off. The order of the prompts
    does not matter, since batches are made by length and content.

    Args:
        model (`PreTrainedModel`):
            Causal language model.
        ids (`Sequence[Sequence[int]]`):
            Tokens of each prompt.
        layers (`Sequence[int]` of length L):
            Whose states are read.
        batch_size (`int`, *optional*, defaults to `32`):
            Prompts a pass.
    """
    import numpy as np
    from tqdm import tqdm

    inner = causal_lm(model)
    device = inner.get_input_embeddings().weight.device
    order = sorted(range(len(ids)), key=lambda row: (len(ids[row]), list(ids[row])))
    parts: list[torch.Tensor] = []
    with frozen(inner), adapters_disabled(inner), tqdm(total=len(ids), desc="Reading prompts", unit="prompt") as bar:
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            # An answer of one token, any one: where it is predicted from is where answering or refusing is decided.
            tokens, mask = padded([[*ids[row], ids[row][-1]] for row in rows], 0)
            labels = torch.full_like(tokens, -100)
            ends = mask.sum(1) - 1
            labels[torch.arange(len(rows)), ends] = tokens[torch.arange(len(rows)), ends]
            inputs = {"input_ids": tokens.to(device), "attention_mask": mask.to(device)}
            states = inner.base_model(**inputs, use_cache=False, output_hidden_states=True).hidden_states
            _, features = prompt_features(states, Batch(inputs, labels.to(device)), layers)
            halves = features.half()
            parts.append((halves if halves.isfinite().all() else features).cpu())
            bar.update(len(rows))
    values = torch.cat(parts).view(len(ids), len(layers), -1).numpy()
    back = np.empty(len(order), dtype=np.int64)
    back[order] = np.arange(len(order))
    return values[back]
