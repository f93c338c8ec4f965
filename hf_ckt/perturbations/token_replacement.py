# SPDX-License-Identifier: Apache-2.0
"""Tokens replaced by any other."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from .base import TokenPerturbation, draw_count


@dataclass(eq=False)
class TokenReplacementPerturbation(TokenPerturbation):
    """
    Replaces ordinary tokens of the prompt by ids drawn evenly from the vocabulary.

    Source: Xie et al. 2017 (data noising), https://huggingface.co/papers/1703.02573. Differs: drawn evenly and not by
    frequency.
    Related: [`TokenDropoutPerturbation`] leaves them out.

    Args:
        severity (`float`, *optional*, defaults to `0.1`):
            Share of the prompt's ordinary tokens that are replaced, in [0, 1].

    Example:

    >>> TokenReplacementPerturbation(severity=0.5).edits([4, 5, 6, 7], range(100), Random(0))
    {4: 33, 7: 65}
    """

    def edits(self, positions: Sequence[int], vocabulary: Sequence[int], rng: Random) -> dict[int, int | None]:
        chosen = rng.sample(positions, draw_count(self.severity, len(positions), rng))
        return {position: rng.choice(vocabulary) for position in sorted(chosen)}
