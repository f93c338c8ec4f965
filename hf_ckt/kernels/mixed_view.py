# SPDX-License-Identifier: Apache-2.0
"""Next-token distributions that are, position by position, a mixture of two models'. Letters as in `views.py`."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..views import LogitsView, log_softmax


class MixedView(LogitsView):
    r"""
    The arithmetic mixture of two models' distributions, each over the ids that are asked for.

        log p(v) = logaddexp(log w + log p_1(v), log (1 - w) + log p_2(v))        w = sigmoid(log_odds)

    Whole distributions over whole vocabularies, so every loss and metric reads it as it reads one model's. Heads of different
    size are mixed over the ids that both have, each normalised over those first: w is the weight of the first model, whatever
    it gives to ids that nobody else has.

    At a temperature the mixture itself is raised to the power 1 / temperature and normalised, as if its log-probabilities were
    a model's logits; the two models' own distributions at that temperature are not what is mixed.

    Args:
        first ([`~views.LogitsView`]), second ([`~views.LogitsView`]):
            The two models'.
        log_odds (`torch.Tensor` of shape `(N,)`):
            Of the first model's weight, natural: infinite where one of the two speaks alone.
    """

    def __init__(self, first: LogitsView, second: LogitsView, log_odds: Tensor):
        self._both = first, second
        odds = log_odds[:, None].to(first.logits.dtype)  # (N, 1)
        self._log_weights = F.logsigmoid(odds), F.logsigmoid(-odds)
        shared = min(first.vocab_size, second.vocab_size)
        super().__init__(self._mixed(shared))
        self._cache[1.0, shared] = self.logits

    def _mixed(self, vocab_size: int) -> Tensor:
        first, second = (
            weight + view.log_probs(1.0, vocab_size)
            for weight, view in zip(self._log_weights, self._both, strict=True)
        )
        return torch.logaddexp(first, second)

    def log_probs(self, temperature: float = 1.0, vocab_size: int | None = None) -> Tensor:
        """Returns the mixture's log-probabilities at a temperature over the first `vocab_size` ids, `(N, V)`."""
        vocab_size = self.vocab_size if vocab_size is None else vocab_size
        key = (float(temperature), vocab_size)
        if key not in self._cache:
            whole = temperature == 1.0
            self._cache[key] = (
                self._mixed(vocab_size) if whole else log_softmax(self.log_probs(1.0, vocab_size) / temperature)
            )
        return self._cache[key]

    def top(self, vocab_size: int | None = None) -> Tensor:
        """Returns the most probable of the first `vocab_size` ids, `(N,)`."""
        return self.log_probs(1.0, vocab_size).argmax(-1)

    def most_probable(self, count: int, vocab_size: int) -> Tensor:
        """Returns the `count` most probable of the first `vocab_size` ids, `(N, count)`."""
        return self.log_probs(1.0, vocab_size).topk(count).indices
