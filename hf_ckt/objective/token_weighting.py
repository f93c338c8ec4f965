# SPDX-License-Identifier: Apache-2.0
"""How much each token counts in a role's loss, with a mean of 1."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..kernels.position_values import position_values
from ..models.batch import Batch
from ..token_weights.base import TokenWeights
from ..views import NoisyStates, TokenViews
from .partition import HiddenStates, Partition

# Which of the positions, None for all, and what a weighting gives there.
_Found = list[tuple[Tensor | None, Tensor]]


class TokenWeighting:
    r"""
    The factors of some roles' losses at each kept position of a micro-batch.

        factor_i = weight_i / mean_j weight_j        the mean over the positions at which the role's loss is computed

    So the factors of a micro-batch have mean 1 in it, on each rank and in each part of an accumulated batch, and what the
    losses are divided by stays the number of all tokens. A weighting that reads the teacher is normalised for each of
    several teachers by itself: it moves weight between the tokens of one, and none to another, say away from rows whose
    teacher is the base. Where no teacher speaks, or all weights are 0, the factor is 1.

    Args:
        weights (`Mapping[str, TokenWeights]`):
            By role.
        taught (`Collection[str]`, *optional*):
            Those of the roles whose loss reads the teacher, and is computed only where one speaks.
    """

    def __init__(self, weights: Mapping[str, TokenWeights], taught: Collection[str] = ()):
        self.weights, self._taught = dict(weights), frozenset(taught)
        # Roles with the same weighting share what is computed for it.
        self._partitions: dict[tuple, Partition] = {}
        for part in self.weights.values():
            named: Any = ("weight", part)
            self._partitions.setdefault(_key(part), Partition([named]))
        self.needs: frozenset[str] = frozenset().union(*(part.needs for part in self.weights.values()))
        """Names of the views that are read."""

    def __call__(self, states: HiddenStates, batch: Batch, **tiles: Any) -> dict[str, Tensor]:
        """
        Returns the factors by role, `(N,)` each, without gradient.

        Args:
            states ([`~objective.partition.HiddenStates`]):
                Hidden states and heads, and where roles count.
            batch ([`~models.batch.Batch`]):
                Kept positions and labels.
            tiles:
                `chunk_size` and `compile`, see [`~kernels.position_values.position_values`].
        """
        with torch.no_grad():
            read = any(part.reads_positions for part in self.weights.values())
            before = batch.kept_before if read else None
            # A position's weight does not depend on whether it was perturbed.
            clean = replace(states, noisy=NoisyStates.nowhere(states.hidden["student"]))
            found: dict[tuple, _Found] = {}
            for part in self.weights.values():
                if _key(part) not in found:
                    own = before if part.reads_positions else None
                    found[_key(part)] = self._found(part, clean, batch.kept_labels, own, tiles)
            spoken = _spoken(states, batch.kept)
            return {
                role: _factors(
                    found[_key(part)], batch.kept, _both(states.role_masks.get(role), spoken[role in self._taught])
                )
                for role, part in self.weights.items()
            }

    def _found(
        self, part: TokenWeights, states: HiddenStates, labels: Tensor, before: Tensor | None, tiles: dict[str, Any]
    ) -> _Found:
        if not part.needs:
            return [(None, part.per_token(TokenViews(labels), before))]
        found: _Found = []
        for one in self._partitions[_key(part)].parts(states, labels):
            if one.program.losses:
                own = before if before is None or one.rows is None else before[one.rows]
                values = position_values(part, one.hidden, one.heads, one.labels, own, given=one.given, **tiles)
                found.append((one.rows, values.to(labels.device)))
        return found


def _key(part: TokenWeights) -> tuple:
    return type(part), repr(part)


def _spoken(states: HiddenStates, kept: Tensor) -> dict[bool, Tensor | None]:
    """Where a loss is computed, by whether it reads the teacher; None: everywhere."""
    if sum(len(part.positions) for part in states.teacher) == len(kept):
        return {False: None, True: None}
    spoken = torch.zeros_like(kept, dtype=torch.bool)
    for part in states.teacher:
        spoken[part.positions.to(kept.device)] = True
    return {False: None, True: spoken}


def _both(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    return other if one is None else one if other is None else one.to(other.device) & other


def _factors(found: _Found, kept: Tensor, counts: Tensor | None) -> Tensor:
    """Weights divided by their mean where the loss is computed, each teacher's by itself; 1 where there is none."""
    factors = torch.ones(len(kept), device=kept.device)
    for rows, values in found:
        own = counts if counts is None or rows is None else counts[rows.to(counts.device)]
        counted = torch.ones_like(values, dtype=torch.bool) if own is None else own.to(values.device)
        total, number = torch.where(counted, values, 0).sum(), counted.sum()
        normalised = torch.where(total > 0, values * (number / total), 1.0)
        factors = normalised if rows is None else factors.to(normalised).index_copy(0, rows, normalised)
    return factors
