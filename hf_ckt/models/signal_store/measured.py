# SPDX-License-Identifier: Apache-2.0
"""What is kept of a batch's signal, and what that loses against the exact one."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...views import LinearHead
from .records import IDS, LOG_PROBS, bytes_per_position, decode, encode, encode_top_k

# Kept positions of a batch whose distribution is compared with the exact one, and of a tile of logits.
_COMPARED, _TILE = 8, 256


def record_of(
    states: Tensor, head: LinearHead, dtype: str, top_k: int | None
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """
    Returns the record of a teacher's states, and sums of what it loses. Waits for the device.

    Args:
        states (`torch.Tensor` of shape `(n, D)`), head ([`~views.LinearHead`]):
            What the teacher said.
        dtype (`str`):
            Of [`~models.signal_store.records.DTYPES`].
        top_k (`int`, *optional*):
            Keeps as many of the most probable tokens in place of the states.

    Returns:
        `tuple[dict[str, torch.Tensor], dict[str, float]]`: the record's fields, and sums that [`measured_errors`] reads.
    """
    some = torch.arange(0, len(states), max(1, len(states) // _COMPARED), device=states.device)[:_COMPARED]
    exact = head.logits(states[some]).double().log_softmax(-1)
    sums = {"compared": float(len(some))}
    if top_k is None:
        record = encode(states, dtype)
        kept = decode({name: values.to(states.device) for name, values in record.items()}, states.dtype)
        sums["squared_error"] = (kept.double() - states.double()).square().sum().item()
        sums["squares"] = states.double().square().sum().item()
        other = head.logits(kept[some]).double().log_softmax(-1)
    else:
        tiles = [encode_top_k(head.logits(tile).log_softmax(-1), top_k) for tile in states.split(_TILE)]
        record = {name: torch.cat([tile[name] for tile in tiles]) for name in tiles[0]}
        ids, log_probs = (record[name].to(some.device)[some] for name in (IDS, LOG_PROBS))
        other = spread_out(ids, log_probs, head.weight.shape[0])
    sums["kl"] = (exact.exp() * (exact - other)).sum().item()
    return record, sums


def record_bytes(width: int, dtype: str, top_k: int | None) -> int:
    """Returns what one kept position takes on disk, in bytes."""
    return bytes_per_position(width, dtype) if top_k is None else 8 * top_k


def measured_errors(index: Mapping[str, Any]) -> dict[str, float]:
    """
    Returns what keeping the states in their dtype costs, of an index.

    Returns:
        `dict`: `states`, root mean square of the error as a share of that of the states, where those are kept; `kl`, mean
        Kullback-Leibler divergence of the kept distribution from the exact one, in nats. What is not among the most probable
        tokens is taken for equally probable.
    """
    sums = index["measured"]
    found = {"kl": sums["kl"] / max(sums["compared"], 1)}
    if "squares" in sums:
        found["states"] = (sums["squared_error"] / max(sums["squares"], 1e-300)) ** 0.5
    return found


def spread_out(ids: Tensor, log_probs: Tensor, vocab_size: int) -> Tensor:
    """
    Returns whole distributions of named tokens: what is left of the mass is spread evenly over all others.

    Args:
        ids (`torch.Tensor` of shape `(N, K)`), log_probs (`torch.Tensor` of shape `(N, K)`):
            As in [`~kernels.top_k_view.TopKView`].
        vocab_size (`int`):
            V.

    Returns:
        `torch.Tensor` of shape `(N, V)`: log-probabilities in float64.

    Example:

    >>> spread_out(torch.tensor([[2, -1]]), torch.tensor([[0.5, 0.0]]).log(), 3).exp()
    tensor([[0.2500, 0.2500, 0.5000]], dtype=torch.float64)
    """
    named = ids >= 0
    wide = torch.where(named, log_probs.double(), -torch.inf)
    others = (vocab_size - named.sum(-1, keepdim=True)).clamp(min=1)
    rest = (1 - wide.exp().sum(-1, keepdim=True)).clamp(min=1e-12) / others
    whole = rest.log().repeat(1, vocab_size + 1)
    # What is not named is written beside the vocabulary.
    return whole.scatter(1, torch.where(named, ids.long(), vocab_size), wide)[:, :vocab_size]
