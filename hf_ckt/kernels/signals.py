# SPDX-License-Identifier: Apache-2.0
"""What a teacher says of a batch. Letters as in `views.py`."""

from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from ..views import LinearHead


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
            As in [`~views.TopKView`].
    """

    ids: Tensor
    log_probs: Tensor

    def select(self, rows: Tensor) -> "TopKSignal":
        """Returns the signal at some of its positions, `(M,)` indices."""
        rows = rows.to(self.ids.device)
        return TopKSignal(self.ids.index_select(0, rows), self.log_probs.index_select(0, rows))


class SignalPart(NamedTuple):
    """
    What one teacher says, and where.

    Args:
        teacher (`str`):
            Name under which its share of a sum is logged; empty where there is only one teacher.
        positions (`torch.Tensor` of shape `(M,)`):
            Which of the N kept positions it speaks at, ascending.
        signal ([`TeacherSignal`] or [`TopKSignal`]):
            Its reading of those.
    """

    teacher: str
    positions: Tensor
    signal: TeacherSignal | TopKSignal


class RoutedSignal(NamedTuple):
    """
    The reading of a batch by several teachers, or by one that does not speak everywhere.

    Args:
        parts (`tuple[SignalPart, ...]`):
            No position is in two; where none speaks, what reads a teacher does not count.
    """

    parts: tuple[SignalPart, ...]


Signal: TypeAlias = TeacherSignal | TopKSignal | RoutedSignal
"""What a teacher returns."""


def signal_parts(signal: Signal, count: int) -> tuple[SignalPart, ...]:
    """Returns a teacher's reading of `count` kept positions as parts."""
    if isinstance(signal, RoutedSignal):
        return signal.parts
    everywhere = torch.arange(count, device=signal[0].device)
    return (SignalPart("", everywhere, signal),)
