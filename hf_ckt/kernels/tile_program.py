# SPDX-License-Identifier: Apache-2.0
"""What is computed on a tile of logits: the losses and metrics of an objective, on shared log-probabilities."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..views import LogitsView, TokenViews

# Bytes of one float32 tile of logits, a few of which are the extra memory: small where memory is shared with all else,
# larger on an accelerator, whose matrix units want rows.
_TILE_BYTES = {"cpu": 32 * 2**20, "accelerator": 256 * 2**20}


def default_chunk_size(vocab_size: int, device: torch.device) -> int:
    """Returns how many positions make a tile of the default size, a multiple of 16."""
    budget = _TILE_BYTES["cpu" if device.type == "cpu" else "accelerator"]
    return max(16, budget // (4 * vocab_size) // 16 * 16)


class TileProgram:
    """
    The losses and metrics of an objective, evaluated on one tile of logits.

    Args:
        losses (`Sequence[tuple[str, TokenLoss]]`):
            Key under which each loss is reported, and the loss.
        metrics (`Sequence[tuple[str, TokenMetric]]`):
            The same for metrics.
    """

    def __init__(self, losses: Sequence[tuple[str, Any]], metrics: Sequence[tuple[str, Any]] = ()):
        self.losses, self.metrics = tuple(losses), tuple(metrics)
        self.needs = frozenset().union(*(part.needs for _, part in (*self.losses, *self.metrics)))

    @property
    def key(self) -> tuple:
        """Equal for programs that compute the same thing."""
        return tuple((key, type(part), repr(part)) for key, part in (*self.losses, *self.metrics))

    def __call__(
        self,
        logits: dict[str, Tensor],
        views: dict[str, str],
        caps: dict[str, tuple[float, float | None]],
        labels: Tensor,
        mask: Tensor | None,
        weights: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """
        Returns the tile's weighted total and the sums of all losses, then all metrics.

        Args:
            logits (`dict[str, torch.Tensor]`):
                Raw projections `(N, V)` by name.
            views (`dict[str, str]`):
                Which projection each view reads: two views may share one.
            caps (`dict[str, tuple[float, float | None]]`):
                Logit scale and softcap of each projection.
            labels (`torch.Tensor` of shape `(N,)`), mask (`torch.Tensor` of shape `(N,)`, *optional*):
                Next-token ids; 0 in `mask` leaves a (padding) position out.
            weights (`torch.Tensor`):
                Weight of each loss.
        """
        shared = {name: LogitsView(_scale_and_cap(raw, *caps[name])) for name, raw in logits.items()}
        tile = TokenViews(labels=labels, **{view: shared[name] for view, name in views.items()})

        def total_of(per_token: Tensor) -> Tensor:
            return (per_token if mask is None else per_token * mask).sum()

        terms = [total_of(loss.per_token(tile)) for _, loss in self.losses]
        total = (torch.stack(terms) * weights).sum() if terms else weights.sum()
        with torch.no_grad():
            metrics = [total_of(metric.per_token(tile)) for _, metric in self.metrics]
        sums = torch.stack([value.detach().to(weights.dtype) for value in (*terms, *metrics)])
        return total, sums


def _scale_and_cap(raw: Tensor, scale: float, softcap: float | None) -> Tensor:
    logits = raw.to(torch.promote_types(raw.dtype, torch.float32))
    if scale != 1.0:
        logits = logits * scale
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return logits
