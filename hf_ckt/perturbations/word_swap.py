# SPDX-License-Identifier: Apache-2.0
"""Neighbouring words in the wrong order."""

from dataclasses import dataclass
from random import Random
from typing import ClassVar

from .base import TextPerturbation, draw_count, join_words, split_words


@dataclass(eq=False)
class WordSwapPerturbation(TextPerturbation):
    """
    Swaps neighbouring words; the gaps stay where they are.

    Source: Wei and Zou 2019 (EDA), https://huggingface.co/papers/1901.11196. Differs: neighbours only.
    Related: [`WordDropoutPerturbation`] leaves words out.

    Args:
        severity (`float`, *optional*, defaults to `0.1`):
            Share of the words that change their place, in [0, 1]; a swap moves two. Pairs are drawn at random and stand
            in each other's way, so that beyond 0.8 somewhat fewer words move.

    Example:

    >>> WordSwapPerturbation(severity=0.4).apply("How do I bake bread?", Random(0))
    'How do bake I bread?'
    """

    unit: ClassVar[str] = "words"

    def apply(self, text: str, rng: Random) -> str:
        words, gaps = split_words(text)
        budget = draw_count(self.severity / 2, len(words), rng)
        places = list(range(len(words) - 1))
        rng.shuffle(places)
        moved: set[int] = set()
        for index in places:
            if budget == 0:
                break
            if moved.isdisjoint((index, index + 1)) and words[index] != words[index + 1]:
                words[index], words[index + 1] = words[index + 1], words[index]
                moved |= {index, index + 1}
                budget -= 1
        return join_words(words, gaps)
