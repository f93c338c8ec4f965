# SPDX-License-Identifier: Apache-2.0
"""
Prompts that begin alike: what they share is read once, and its keys and values are given to all.

Requests in one jailbreak template differ in their last few tokens out of hundreds.
"""

import copy
import inspect
from collections import Counter
from collections.abc import Sequence
from typing import Any

# Fewer shared tokens, or fewer rows, are not worth a pass of their own.
LEAST_TOKENS = 128
_LEAST_ROWS = 4


def prefix_groups(rows: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """
    Returns for each row of ids what stands for the rows that it should be read with: its first tokens, where enough rows
    begin with the same ones, and else nothing.
    """
    beginnings = [tuple(row[:LEAST_TOKENS]) if len(row) > LEAST_TOKENS else () for row in rows]
    counts = Counter(beginnings)
    return [beginning if counts[beginning] >= _LEAST_ROWS else () for beginning in beginnings]


def shared_length(rows: Sequence[Sequence[int]]) -> int:
    """
    Returns how many tokens all rows begin with, at least one token of each being left; 0 where it is not worth a pass.

    Example:

    >>> shared_length([[*range(200), 1], [*range(200), 2, 3], [*range(201)], [*range(200), 5]])
    200
    >>> shared_length([[1, 2, 3], [1, 2, 4]])
    0
    """
    least = min(map(len, rows)) - 1
    length = next((at for at in range(least) if any(row[at] != rows[0][at] for row in rows)), least)
    return length if length >= LEAST_TOKENS and len(rows) >= _LEAST_ROWS else 0


def read_prefix(model: Any, ids: Sequence[int], lengths: Sequence[int]) -> Any:
    """
    Returns a cache with the keys and values of what rows begin with, as if each row had been read as far, padded on the left
    to the longest.

    Padding between the beginning and the rest would do for most models, whose positions are given; but some count columns
    for the distance of two tokens (MPT), or for how far a layer looks back (GPT-Neo).

    Args:
        model (`PreTrainedModel` or `PeftModel`):
            In eval mode.
        ids (`Sequence[int]`):
            What the rows begin with.
        lengths (`Sequence[int]`):
            Tokens of each row.

    Returns:
        `DynamicCache`, or None of a model that keeps anything else of the past, or less of it than all.
    """
    import torch
    from transformers.cache_utils import DynamicCache, DynamicLayer

    from ...models._upstream import cache_of

    if is_prompt_learning(model):
        return None
    prefix = torch.tensor([list(ids)], device=model.device)
    wanted = {"logits_to_keep": 1} if "logits_to_keep" in forward_arguments(model) else {}
    output = model(input_ids=prefix, attention_mask=torch.ones_like(prefix), use_cache=True, **wanted)
    cache = cache_of(output)
    layers: list[Any] = list(cache.layers) if type(cache) is DynamicCache else []
    if {type(layer) for layer in layers} != {DynamicLayer}:
        return None
    if any(layer.get_seq_length() != len(ids) for layer in layers):
        return None  # a layer for something that this model lacks
    padding = [max(lengths) - length for length in lengths]
    for layer in layers:
        # What is moved out at the end is read again with the rest; it comes back in where the padding is, which none sees.
        layer.keys, layer.values = (
            torch.cat([kept.roll(columns, dims=-2) for columns in padding]) for kept in (layer.keys, layer.values)
        )
    return cache


def branching(cache: Any) -> Any:
    """
    Returns a cache that grows on its own from what another one holds; None if it could not.

    Layers that grow by concatenation never write into the tensors they hold, so a copy of the layers that shares them
    is enough: also where a sliding window has already dropped what `crop` would have to bring back.
    """
    from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

    if type(cache) is not DynamicCache or {type(layer) for layer in cache.layers} - {
        DynamicLayer,
        DynamicSlidingWindowLayer,
    }:
        return None
    branch = copy.copy(cache)
    branch.layers = [copy.copy(layer) for layer in cache.layers]
    return branch


def forward_arguments(model: Any) -> Any:
    """Returns the parameters of a model's forward, by name."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    # Of the class: a trainer puts wrappers around the instance's own forward.
    return inspect.signature(type(base).forward).parameters


def is_prompt_learning(model: Any) -> bool:
    """Tells whether an adapter puts virtual tokens in front of what is read."""
    return bool(getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False))
