# SPDX-License-Identifier: Apache-2.0
"""Words left out."""

from dataclasses import dataclass
from random import Random
from typing import ClassVar

from .base import TextPerturbation, draw_count, join_words, split_words


@dataclass(eq=False)
class WordDropoutPerturbation(TextPerturbation):
    """
    Leaves words out, each with the gap before it; at least one stays.

    Source: Iyyer et al. 2015 (deep averaging networks), https://aclanthology.org/P15-1162, who drop words in training.
    Related: [`TokenDropoutPerturbation`] drops parts of words.

    Args:
        severity (`float`, *optional*, defaults to `0.1`):
            Share of the words that are left out, in [0, 1]; 1 leaves one.

    Example:

    >>> WordDropoutPerturbation(severity=0.4).apply("How do I bake bread?", Random(0))
    'do I bread?'
    """

    unit: ClassVar[str] = "words"

    def apply(self, text: str, rng: Random) -> str:
        words, gaps = split_words(text)
        count = min(draw_count(self.severity, len(words), rng), max(len(words) - 1, 0))
        dropped = set(rng.sample(range(len(words)), count))
        kept = [index for index in range(len(words)) if index not in dropped]
        # The gaps around the whole text stay, whichever word comes first or last now.
        inner = [gaps[index] for index in kept[1:]]
        return join_words([words[index] for index in kept], [gaps[0], *inner, gaps[-1]]) if kept else text
