# SPDX-License-Identifier: Apache-2.0
"""Letters in the wrong case."""

from dataclasses import dataclass
from random import Random
from typing import ClassVar

from .base import TextPerturbation, draw_count


@dataclass(eq=False)
class CasingPerturbation(TextPerturbation):
    """
    Turns capitals into small letters and small letters into capitals.

    Source: Wang et al. 2021 (TextFlint), https://huggingface.co/papers/2103.11441, has it among its transformations.
    Related: [`TyposPerturbation`] changes which letter it is.

    Args:
        severity (`float`, *optional*, defaults to `0.1`):
            Share of the letters with two cases that change theirs, in [0, 1]; 1 inverts all.

    Example:

    >>> CasingPerturbation(severity=0.3).apply("How do I bake bread?", Random(0))
    'how dO I Bake brEad?'
    """

    unit: ClassVar[str] = "letters"

    def apply(self, text: str, rng: Random) -> str:
        # A letter whose other case is two letters long (the German sharp s) or its own is left alone.
        letters = [
            index for index, letter in enumerate(text) if letter.swapcase() != letter and len(letter.swapcase()) == 1
        ]
        chosen = set(rng.sample(letters, draw_count(self.severity, len(letters), rng)))
        return "".join(letter.swapcase() if index in chosen else letter for index, letter in enumerate(text))
