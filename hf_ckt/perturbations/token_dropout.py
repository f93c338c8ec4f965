# SPDX-License-Identifier: Apache-2.0
"""Tokens left out."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from .base import TokenPerturbation, draw_count


@dataclass(eq=False)
class TokenDropoutPerturbation(TokenPerturbation):
    """
    Leaves ordinary tokens of the prompt out; at least one stays.

    Source: Bowman et al. 2015, https://huggingface.co/papers/1511.06349, who drop words of a decoder's input. Differs:
    the token is gone, not replaced by an unknown one.
    Related: [`TokenReplacementPerturbation`] keeps the length.

    Args:
        severity (`float`, *optional*, defaults to `0.1`):
            Share of the prompt's ordinary tokens that are left out, in [0, 1]; 1 leaves one.

    Example:

    >>> TokenDropoutPerturbation(severity=0.5).edits([4, 5, 6, 7], [], Random(0))
    {4: None, 7: None}
    """

    def edits(self, positions: Sequence[int], vocabulary: Sequence[int], rng: Random) -> dict[int, int | None]:
        count = min(draw_count(self.severity, len(positions), rng), max(len(positions) - 1, 0))
        return dict.fromkeys(sorted(rng.sample(positions, count)))
