# SPDX-License-Identifier: Apache-2.0
"""Sides: which documents of a contrast are of one kind, those to refuse and all others."""

import torch
from torch import Tensor

from ..kernels.signals import MixedSignal, SignalPart
from ..models.batch import Batch


def sides_of(batch: Batch, teacher: tuple[SignalPart, ...]) -> Tensor | None:
    """
    Returns the side that each kept position's document is on, `(N,)` whole numbers from 0, or None if nothing says it.

    This is the one place where sides are decided. With several teachers a document is on the side of the one that it was
    given: one teaches to refuse, say, and another to answer. Where each row hears a mixture of two, it is on the side of the
    one with more weight; where a mixture is one of several teachers, on the side of those that hear that one alone. With one
    teacher nothing says it, and a loss takes for one side what the teacher says nearly the same of
    ([`~views.Similarities.on_same_side`]).
    """
    if not any(isinstance(part.signal, MixedSignal) for part in teacher):
        return batch.kept_routes if len({part.teacher for part in teacher}) > 1 else None
    sides = torch.zeros_like(batch.kept)
    for number, part in enumerate(teacher):
        if isinstance(part.signal, MixedSignal):
            refuse, answer = part.sides or (1, 0)
            odds = part.signal.mixture.log_odds
            found = torch.where(odds > 0, refuse, answer).to(sides)
        else:
            (side,) = part.sides or (2 + number,)
            found = sides.new_full((len(part.positions),), side)
        sides[part.positions.to(sides.device)] = found
    return sides


def require_sides(sides: Tensor | None) -> Tensor:
    """
    Returns the sides that a teacher's signal gives.

    Raises:
        ValueError: If it gives none, though the teacher is marked as one that does.
    """
    if sides is None:
        raise ValueError(
            "contrastive_level='state': the teacher is marked `sided`, and its signal says no sides, so it is not known what to "
            "part. Let it return parts of several names or a MixedSignal, or leave `sided` at False."
        )
    return sides
