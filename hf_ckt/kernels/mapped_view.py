# SPDX-License-Identifier: Apache-2.0
"""A teacher's distributions in a student's vocabulary, where the two have different ones. Letters as in `views.py`."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..views import BucketView, LogitsView


class SharedTokens(NamedTuple):
    """
    The S tokens whose text two vocabularies share.

    Args:
        student (`torch.Tensor` of shape `(S,)`):
            The student's ids, ascending.
        teacher (`torch.Tensor` of shape `(S,)`):
            The teacher's id of each.
    """

    student: Tensor
    teacher: Tensor


class MappedView(BucketView):
    """
    A teacher's next-token distributions over S + 2 buckets: the shared tokens, the student's next token where it is not
    shared, and all others together, those of the student against those of the teacher.

    Where the teacher writes the student's next token with other tokens, the probability that it gives to that way of writing
    is moved from the bucket of the first of them to the student's token, so that the buckets still add up to 1.

    Args:
        whole ([`~views.LogitsView`]):
            The teacher's distributions in its own vocabulary.
        shared ([`SharedTokens`]):
            The tokens that both have.
        first (`torch.Tensor` of shape `(N,)`):
            The teacher's token with which the text of the student's next token begins; -1 where nothing is moved.
        later (`torch.Tensor` of shape `(N,)`):
            Log-probability of the teacher's further tokens up to the end of that text; 0 where there are none.
        labels (`torch.Tensor` of shape `(N,)`):
            The student's next tokens.
        vocab_size (`int`):
            Ids that the student has.
    """

    known_at_one = "what a teacher of another vocabulary gives to a token that it writes with several is known at temperature 1 only"
    known_at_all = "with the student's tokenizer"

    def __init__(
        self, whole: LogitsView, shared: SharedTokens, first: Tensor, later: Tensor, labels: Tensor, vocab_size: int
    ):
        self._shared, self._labels = shared, labels[:, None]
        moves = (first >= 0)[:, None]  # (N, 1)
        log_probs = whole.log_probs()
        begins = first.clamp(min=0)[:, None]
        before = log_probs.gather(1, begins)
        later = later[:, None].to(before)
        moved = before + later
        stays = (before + torch.log(-torch.expm1(later))).clamp(min=self.FLOOR)
        left = log_probs.scatter(1, begins, torch.where(moves, stays, before))
        self._place = torch.searchsorted(shared.student, self._labels).clamp(max=len(shared.student) - 1)
        known = shared.student[self._place] == self._labels
        # Whether the student's next token has the bucket between the shared ones and the rest.
        self._alone = moves & ~known
        named = left.index_select(1, shared.teacher)
        at = named.gather(1, self._place)
        named = named.scatter(1, self._place, torch.where(moves & known, torch.logaddexp(at, moved), at))
        own = torch.where(self._alone, moved, self.FLOOR).clamp(min=self.FLOOR)
        self._rest = left.index_fill_(1, shared.teacher, self.NOTHING)  # in place: of the teacher's large vocabulary
        rest = self._rest.logsumexp(1, keepdim=True).clamp(min=self.FLOOR)
        super().__init__(torch.cat([named, own, rest], dim=1), vocab_size)

    def top(self, vocab_size: int | None = None) -> Tensor:
        """Returns the student's id of the most probable token, `(N,)`: -1 where the student has none for it."""
        top = self.most_probable(1, self.vocab_size)[:, 0]
        return torch.where(self._buckets[:, :-1].amax(1) >= self._rest.amax(1), top, -1)

    def most_probable(self, count: int, vocab_size: int) -> Tensor:
        """Returns the student's ids of the `count` most probable tokens that both have, `(N, count)`."""
        places = self._buckets[:, :-1].topk(min(count, self._buckets.shape[1] - 1)).indices
        is_shared = places < len(self._shared.student)
        ids = self._shared.student[places.clamp(max=len(self._shared.student) - 1)]
        return torch.where(is_shared, ids, torch.where(self._alone, self._labels, -1))

    def log_prob_of(self, labels: Tensor, vocab_size: int) -> Tensor:
        """Returns the log-probability of each row's label, `(N,)`: of one that is not shared, that of all such."""
        place = torch.searchsorted(self._shared.student, labels[:, None]).clamp(max=len(self._shared.student) - 1)
        count = len(self._shared.student)
        other = torch.where(self._alone & (labels[:, None] == self._labels), count, count + 1)
        place = torch.where(self._shared.student[place] == labels[:, None], place, other)
        return self._buckets.gather(1, place)[:, 0]

    def buckets_of(self, other: LogitsView) -> Tensor:
        """Returns a student's view's log-probabilities over these buckets, `(N, S + 2)`, with its gradient."""
        whole = other.log_probs(1.0, self.vocab_size)
        own = torch.where(self._alone, whole.gather(1, self._labels), self.FLOOR)
        rest = self._rest_of(whole).logsumexp(1, keepdim=True)
        named = whole.index_select(1, self._shared.student)
        return torch.cat([named, own.clamp(min=self.FLOOR), rest.clamp(min=self.FLOOR)], dim=1)

    def unmatched(self, other: LogitsView) -> tuple[Tensor, Tensor]:
        """
        Returns the probabilities of the teacher's and of the student's tokens that are in no other bucket than the last,
        each row from the greatest to the smallest and filled up with zeros, `(N, vocabulary of the larger)` each.
        """
        both = self._rest, self._rest_of(other.log_probs())
        pair = [rest.exp().sort(1, descending=True).values for rest in both]
        width = max(one.shape[1] for one in pair)
        first, second = (F.pad(one, (0, width - one.shape[1])) for one in pair)
        return first, second

    def _rest_of(self, log_probs: Tensor) -> Tensor:
        """A student's log-probabilities, those taken out that have a bucket of their own."""
        rest = log_probs.index_fill(1, self._shared.student, self.NOTHING)
        at = rest.gather(1, self._labels)
        return rest.scatter(1, self._labels, torch.where(self._alone, self.NOTHING, at))
