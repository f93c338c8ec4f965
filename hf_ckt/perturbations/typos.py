# SPDX-License-Identifier: Apache-2.0
"""Typing errors."""

from dataclasses import dataclass
from random import Random
from typing import ClassVar

from .base import TextPerturbation, draw_count

# Rows of a QWERTY keyboard and how far each is set off to the right, in key widths.
_ROWS = (("qwertyuiop", 0.0), ("asdfghjkl", 0.25), ("zxcvbnm", 0.75))
_PLACES = {
    letter: (row, offset + i) for row, (letters, offset) in enumerate(_ROWS) for i, letter in enumerate(letters)
}
_NEIGHBOURS = {
    letter: [
        other
        for other, (other_row, other_x) in _PLACES.items()
        if other != letter and abs(row - other_row) <= 1 and abs(x - other_x) <= 1
    ]
    for letter, (row, x) in _PLACES.items()
}


@dataclass(eq=False)
class TyposPerturbation(TextPerturbation):
    """
    Types a share of the letters wrongly: a neighbouring key, a letter dropped or doubled, two letters swapped.

    Severity counts letters: a swap affects two of them, any other slip one. Slips keep a letter apart from each other
    while there is room, so that they do not undo one another. Neighbouring keys are those of a QWERTY keyboard; other
    alphabets get the other slips.

    Source: Belinkov and Bisk 2018, https://huggingface.co/papers/1711.02173, for keyboard slips and swaps.
    Related: [`HomoglyphsPerturbation`] changes letters that a reader does not see change.

    Args:
        severity (`float`, *optional*, defaults to `0.1`):
            Share of the letters that are typed wrongly, in [0, 1].

    Example:

    >>> TyposPerturbation(severity=0.2).apply("How do I bake bread?", Random(3))
    'How d I bake braed?'
    """

    unit: ClassVar[str] = "letters"

    def apply(self, text: str, rng: Random) -> str:
        letters = [index for index, letter in enumerate(text) if letter.isalpha()]
        budget = draw_count(self.severity, len(letters), rng)
        rng.shuffle(letters)
        written = list(text)
        touched: set[int] = set()
        for apart in (1, 0):
            for index in letters:
                if budget <= 0:
                    return "".join(written)
                if not touched.isdisjoint(range(index - apart, index + apart + 1)):
                    continue
                kinds = _kinds(text, written, index, budget, touched, apart)
                if not kinds:
                    continue
                kind = rng.choice(kinds)
                touched.add(index)
                if kind == "swap":
                    written[index], written[index + 1] = written[index + 1], written[index]
                    touched.add(index + 1)
                elif kind == "neighbour":
                    key = rng.choice(_NEIGHBOURS[text[index].lower()])
                    written[index] = key.upper() if text[index].isupper() else key
                else:
                    written[index] = "" if kind == "drop" else text[index] * 2
                budget -= 2 if kind == "swap" else 1
        return "".join(written)


def _kinds(text: str, written: list[str], index: int, budget: int, touched: set[int], apart: int) -> list[str]:
    """Slips that are possible at a letter."""
    letter, following = text[index], text[index + 1 : index + 2]
    kinds = ["double"]
    if letter.lower() in _NEIGHBOURS:
        kinds.append("neighbour")
    beside = [near for near in (index - 1, index + 1) if 0 <= near < len(text) and text[near].isalpha()]
    if any(written[near] for near in beside):
        kinds.append("drop")  # of a letter that stands alone, or whose neighbours are gone, nothing would be left
    free = touched.isdisjoint(range(index + 1, index + 2 + apart))
    if budget >= 2 and following.isalpha() and following != letter and free:
        kinds.append("swap")
    return kinds
