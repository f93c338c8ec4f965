# SPDX-License-Identifier: Apache-2.0
"""What a teacher's most probable tokens lose against its whole distribution."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ..models.signal_store.documents import StoredDocument


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


@torch.no_grad()
def truncation_loss(model: Any, pieces: Iterable[tuple[StoredDocument, Tensor, Tensor]]) -> dict[str, float]:
    """
    Measures KL(exact || named tokens, the rest spread evenly) in nats, at the kept positions of documents.

    Args:
        model (`PreTrainedModel`):
            The exact teacher.
        pieces (`Iterable[tuple[StoredDocument, torch.Tensor, torch.Tensor]]`):
            Documents, and of each the named ids and their log-probabilities `(P, K)`.

    Returns:
        `dict`: `kl`, the sum over positions, and `compared`, their number.
    """
    total, compared = 0.0, 0
    model.eval()
    for document, ids, log_probs in pieces:
        tokens = torch.from_numpy(document.ids).long()[None].to(model.device)
        kept = torch.from_numpy(document.kept).to(model.device)
        exact = model(input_ids=tokens).logits[0, kept].double().log_softmax(-1)
        other = spread_out(ids.to(exact.device), log_probs.to(exact.device), exact.shape[-1])
        total += (exact.exp() * (exact - other)).sum().item()
        compared += len(exact)
    return {"kl": total, "compared": float(compared)}
