# SPDX-License-Identifier: Apache-2.0
"""Distributions of which each row names its most probable tokens."""

import math

import torch
from torch import Tensor

from ..views import BucketView, LogitsView


class TopKView(BucketView):
    """
    Next-token distributions of which each row names its most probable tokens, and of the rest only the mass.

    Distributions are over K + 1 buckets: the named tokens and all others together. A divergence between buckets is at
    most that between the whole distributions (data processing inequality).

    Args:
        ids (`torch.Tensor` of shape `(N, K)`):
            The named tokens, each once, the most probable first; -1 where a row names fewer than K. Ids from
            `vocab_size` on count among the others.
        log_probs (`torch.Tensor` of shape `(N, K)`):
            Their log-probabilities, natural.
        vocab_size (`int`):
            Ids that there are.
    """

    # Of the rest at least: the float32 log-softmax of logits near 20, which is what servers compute, is off by as much. A
    # rest rounded to 0 would make a reverse divergence call the student's tail impossible.
    _LEAST_REST = math.log(1e-6)
    known_at_one = "of a top-k teacher the tail's shape is not known, so its distribution at another temperature than 1 is not either"
    known_at_all = "that gives hidden states"

    def __init__(self, ids: Tensor, log_probs: Tensor, vocab_size: int):
        self.ids = torch.where(ids < vocab_size, ids, -1)
        wide = log_probs.to(torch.promote_types(log_probs.dtype, torch.float32))
        wide = torch.where(self.ids < 0, self.FLOOR, wide.clamp(min=self.FLOOR))
        rest = torch.log1p(-wide.exp().sum(-1, keepdim=True).clamp(max=1)).clamp(min=self._LEAST_REST)
        buckets = torch.cat([wide, rest], dim=-1)
        # Rounded on their way, they may add up to a little more than 1, and a divergence would be less than 0.
        super().__init__(buckets - buckets.logsumexp(-1, keepdim=True), vocab_size)

    def top(self, vocab_size: int | None = None) -> Tensor:
        """Returns the most probable token, `(N,)`; -1 where none is named."""
        return self.ids.gather(1, self._buckets[:, :-1].argmax(1, keepdim=True))[:, 0]

    def most_probable(self, count: int, vocab_size: int) -> Tensor:
        """Returns the `count` most probable tokens, `(N, count)`, of the K that are named; -1 where there are fewer."""
        return self.ids[:, :count]

    def log_prob_of(self, labels: Tensor, vocab_size: int) -> Tensor:
        """
        Returns the log-probability of each row's label, `(N,)`: of one that is not named, the most that it can be, which is
        all that is left, and no more than the least of the named.
        """
        named = self.ids == labels[:, None]
        place = named.long().argmax(1, keepdim=True)
        found = self._buckets.gather(1, place)[:, 0]
        least = torch.where(self.ids < 0, 0.0, self._buckets[:, :-1]).amin(1)
        return torch.where(named.any(1), found, torch.minimum(least, self._buckets[:, -1]))

    def buckets_of(self, other: LogitsView) -> Tensor:
        """Returns another view's log-probabilities over these buckets, `(N, K + 1)`, with its gradient."""
        whole = other.log_probs(1.0, self.vocab_size)
        missing = self.ids < 0
        # Where fewer than K are named, one that is named stands in; where none is, nothing is left out of the rest.
        anchor = self.ids.amax(1, keepdim=True)
        ids = torch.where(missing, anchor.clamp(min=0), self.ids)
        named = torch.where(missing, self.FLOOR, whole.gather(1, ids))
        taken = torch.zeros_like(whole, dtype=torch.bool).scatter(1, ids, (anchor >= 0).expand_as(ids))
        # Not log(1 - sum): near 1 that would have few digits left, and its gradient none.
        rest = whole.masked_fill(taken, self.NOTHING).logsumexp(-1, keepdim=True)
        # All ids may be named, and then there is no rest.
        rest = torch.where(rest < self.NOTHING / 2, self._LEAST_REST, rest)
        return torch.cat([named, rest], dim=-1)
