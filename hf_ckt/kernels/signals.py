# SPDX-License-Identifier: Apache-2.0
"""What a teacher says of a batch. Letters as in `views.py`."""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from ..views import BucketView, LinearHead, LogitsView, TokenViews
from .mapped_view import MappedView, SharedTokens
from .mixed_view import MixedView
from .top_k_view import TopKView

# The view of a mixture's second teacher.
SECOND = "second_teacher"


class TeacherSignal(NamedTuple):
    """
    A teacher's exact reading of a batch.

    Args:
        hidden (`torch.Tensor` of shape `(N, D_t)`):
            Last hidden states at the kept positions, without gradient.
        head ([`LinearHead`]):
            The teacher's head: with it the signal is the exact full-vocabulary distribution.
    """

    hidden: Tensor
    head: LinearHead

    def select(self, rows: Tensor) -> "TeacherSignal":
        """Returns the signal at some of its positions, `(M,)` indices."""
        return self._replace(hidden=self.hidden.index_select(0, rows.to(self.hidden.device)))


class TopKSignal(NamedTuple):
    """
    A teacher's reading of which the most probable tokens are known, and of the rest the mass: lossy.

    Args:
        ids (`torch.Tensor` of shape `(N, K)`), log_probs (`torch.Tensor` of shape `(N, K)`):
            As in [`~kernels.top_k_view.TopKView`].
    """

    ids: Tensor
    log_probs: Tensor

    def select(self, rows: Tensor) -> "TopKSignal":
        """Returns the signal at some of its positions, `(M,)` indices."""
        return self.by_row(lambda tensor: tensor.index_select(0, rows.to(tensor.device)))

    @property
    def projected(self) -> bool:
        """Whether the view's hidden states are projected too."""
        return False

    @property
    def key(self) -> tuple:
        """Equal where a compiled program is the same."""
        return type(self), self.ids.shape[1], self.log_probs.dtype

    def to(self, device: torch.device) -> "TopKSignal":
        """Returns it on a device."""
        return self.by_row(lambda tensor: tensor.to(device))

    def by_row(self, change: Callable[[Tensor], Tensor]) -> "TopKSignal":
        """Returns it with a change made to each tensor that has a row a position."""
        return TopKSignal(change(self.ids), change(self.log_probs))

    def view(self, tile: TokenViews, name: str) -> BucketView:
        """Returns the view of that name of a tile."""
        # Student and perturbed student have one head; where neither is read, no id is looked up.
        sizes = [one.vocab_size for one in (tile.student, tile.noisy) if one is not None]
        return TopKView(self.ids, self.log_probs, min(sizes, default=2**31))


class TokenPaths(NamedTuple):
    """
    How a teacher with another vocabulary writes the student's next tokens; arguments as in [`~kernels.mapped_view.MappedView`].

    Args:
        first (`torch.Tensor` of shape `(N,)`), later (`torch.Tensor` of shape `(N,)`):
            The teacher's first token of each, and the log-probability of its further ones.
        shared ([`~kernels.mapped_view.SharedTokens`]):
            The tokens that both have.
    """

    first: Tensor
    later: Tensor
    shared: SharedTokens

    @property
    def projected(self) -> bool:
        """Whether the view's hidden states are projected too."""
        return True

    @property
    def key(self) -> tuple:
        """Equal where a compiled program is the same."""
        return type(self), len(self.shared.student), self.later.dtype

    def to(self, device: torch.device) -> "TokenPaths":
        """Returns it on a device."""
        return TokenPaths(
            self.first.to(device), self.later.to(device), SharedTokens(*(i.to(device) for i in self.shared))
        )

    def by_row(self, change: Callable[[Tensor], Tensor]) -> "TokenPaths":
        """Returns it with a change made to each tensor that has a row a position."""
        return self._replace(first=change(self.first), later=change(self.later))

    def view(self, tile: TokenViews, name: str) -> BucketView:
        """Returns the view of that name of a tile, which holds the teacher's own distributions under it."""
        return MappedView(
            getattr(tile, name), self.shared, self.first, self.later, tile.labels, tile.student.vocab_size
        )


class MappedSignal(NamedTuple):
    """
    The exact reading of a teacher with another vocabulary, compared over the tokens that both have.

    Args:
        hidden (`torch.Tensor` of shape `(N, D_t)`), head ([`LinearHead`]):
            As in [`TeacherSignal`], over the teacher's vocabulary.
        paths ([`TokenPaths`]):
            How the teacher writes the student's next tokens.
    """

    hidden: Tensor
    head: LinearHead
    paths: TokenPaths

    def select(self, rows: Tensor) -> "MappedSignal":
        """Returns the signal at some of its positions, `(M,)` indices."""

        def take(tensor: Tensor) -> Tensor:
            return tensor.index_select(0, rows.to(tensor.device))

        return self._replace(hidden=take(self.hidden), paths=self.paths.by_row(take))


class Mixture(NamedTuple):
    """
    How two teachers are mixed.

    Args:
        log_odds (`torch.Tensor` of shape `(N,)`):
            Of the first one's weight, as in [`~kernels.mixed_view.MixedView`].
    """

    log_odds: Tensor

    @property
    def projected(self) -> bool:
        """Whether the view's hidden states are projected too."""
        return True

    @property
    def key(self) -> tuple:
        """Equal where a compiled program is the same."""
        return type(self), self.log_odds.dtype

    def to(self, device: torch.device) -> "Mixture":
        """Returns it on a device."""
        return self.by_row(lambda tensor: tensor.to(device))

    def by_row(self, change: Callable[[Tensor], Tensor]) -> "Mixture":
        """Returns it with a change made to each tensor that has a row a position."""
        return Mixture(change(self.log_odds))

    def view(self, tile: TokenViews, name: str) -> LogitsView:
        """Returns the view of that name of a tile, which holds the first teacher's under it and the second's beside."""
        assert tile.second_teacher is not None  # projected with it
        return MixedView(getattr(tile, name), tile.second_teacher, self.log_odds)


class MixedSignal(NamedTuple):
    """
    The exact reading of two teachers of one vocabulary, mixed position by position.

    Args:
        hidden (`torch.Tensor` of shape `(N, D_1)`), head ([`LinearHead`]):
            The first teacher's, as in [`TeacherSignal`].
        second ([`TeacherSignal`]):
            The second teacher's, at the same positions.
        mixture ([`Mixture`]):
            With which weight the first one speaks.
    """

    hidden: Tensor
    head: LinearHead
    second: TeacherSignal
    mixture: Mixture

    def select(self, rows: Tensor) -> "MixedSignal":
        """Returns the signal at some of its positions, `(M,)` indices."""

        def take(tensor: Tensor) -> Tensor:
            return tensor.index_select(0, rows.to(tensor.device))

        second = self.second.select(rows)
        return self._replace(hidden=take(self.hidden), second=second, mixture=self.mixture.by_row(take))

    def weighted(self) -> tuple[tuple[TeacherSignal, Tensor], tuple[TeacherSignal, Tensor]]:
        """Returns both readings, each with its weight at each position, `(N,)`; the two add up to 1."""
        odds = self.mixture.log_odds
        return (TeacherSignal(self.hidden, self.head), odds.sigmoid()), (self.second, (-odds).sigmoid())


class SignalPart(NamedTuple):
    """
    What one teacher says, and where.

    Args:
        teacher (`str`):
            Name under which its share of a sum is logged; empty where there is only one teacher.
        positions (`torch.Tensor` of shape `(M,)`):
            Which of the N kept positions it speaks at, ascending.
        signal ([`TeacherSignal`], [`MixedSignal`], [`MappedSignal`] or [`TopKSignal`]):
            Its reading of those.
        sides (`tuple[int, ...]`):
            Of one of several teachers: the number of the side that it stands for, or the two that a mixture does, in its
            order. Read where one of them is a mixture.
    """

    teacher: str
    positions: Tensor
    signal: TeacherSignal | MixedSignal | MappedSignal | TopKSignal
    sides: tuple[int, ...] = ()


class RoutedSignal(NamedTuple):
    """
    The reading of a batch by several teachers, or by one that does not speak everywhere.

    Args:
        parts (`tuple[SignalPart, ...]`):
            No position is in two; where none speaks, what reads a teacher does not count.
    """

    parts: tuple[SignalPart, ...]


Signal: TypeAlias = TeacherSignal | MixedSignal | MappedSignal | TopKSignal | RoutedSignal
"""What a teacher returns."""
Given: TypeAlias = TopKSignal | TokenPaths | Mixture
"""What is known of a view in place of logits, or beside them."""


def projected_views(needs: Iterable[str], given: Mapping[str, Given]) -> list[str]:
    """Returns the views that are projected, of those that are needed and of what is known in their place or beside them."""
    names = {name for name in needs if name not in given or given[name].projected}
    return sorted(names | ({SECOND} if any(isinstance(known, Mixture) for known in given.values()) else set()))


def signal_parts(signal: Signal, count: int) -> tuple[SignalPart, ...]:
    """Returns a teacher's reading of `count` kept positions as parts."""
    if isinstance(signal, RoutedSignal):
        return signal.parts
    everywhere = torch.arange(count, device=signal[0].device)
    return (SignalPart("", everywhere, signal),)
