# SPDX-License-Identifier: Apache-2.0
"""What a teacher's most probable tokens lose against its whole distribution."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ..models.signal_store.documents import StoredDocument
from ..models.signal_store.measured import spread_out


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
