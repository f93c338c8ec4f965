# SPDX-License-Identifier: Apache-2.0
"""Letters that only look the same."""

from dataclasses import dataclass
from random import Random
from typing import ClassVar

from .base import TextPerturbation, draw_count

# Small letters, then capitals: Cyrillic, Greek, Armenian, Cherokee, IPA and rare Latin letters of Unicode. None is one
# that normalization turns back into the plain letter, as a tokenizer might before it reads the text.
_LATIN = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_ALIKE = "аƄсԁеƒɡһіјκӏᴍոорԛгѕτυνԝхуᴢАВСᎠЕϜԌНІЈКᏞМΝОРԚᎡЅТՍᏙԜХҮΖ"
_TABLE = dict(zip(_LATIN, _ALIKE, strict=True))


@dataclass(eq=False)
class HomoglyphsPerturbation(TextPerturbation):
    """
    Replaces Latin letters by letters of other alphabets that look like them: a reader sees little or nothing of it,
    the tokenizer breaks the word apart.

    Source: Boucher et al. 2021 (Bad Characters), https://huggingface.co/papers/2106.09898. Differs: at random, not by
    search.
    Related: [`TyposPerturbation`] makes errors that a reader sees.

    Args:
        severity (`float`, *optional*, defaults to `0.1`):
            Share of the Latin letters that are replaced, in [0, 1].

    Example:

    >>> HomoglyphsPerturbation(severity=0.3).apply("bread", Random(0)) == "bread"
    False
    """

    unit: ClassVar[str] = "letters"

    def apply(self, text: str, rng: Random) -> str:
        letters = [index for index, letter in enumerate(text) if letter in _TABLE]
        chosen = set(rng.sample(letters, draw_count(self.severity, len(letters), rng)))
        return "".join(_TABLE[letter] if index in chosen else letter for index, letter in enumerate(text))
