# SPDX-License-Identifier: Apache-2.0
"""Gaps between words that are missing, wider, or broken over lines."""

from dataclasses import dataclass
from random import Random
from typing import ClassVar

from .base import TextPerturbation, draw_count, join_words, split_words

_WIDER = ("  ", "   ", "\t", "\n")


@dataclass(eq=False)
class WhitespacePerturbation(TextPerturbation):
    r"""
    Removes a gap between two words, or writes it as several spaces, a tab or a line break.

    The first and the last gap, around the text, stay: a tokenizer may join the last one with what follows.

    Source: Li et al. 2018 (TextBugger), https://huggingface.co/papers/1812.05271, who put spaces into words. Differs:
    gaps are removed and widened, words stay whole.
    Related: [`WordSwapPerturbation`] moves the words themselves.

    Args:
        severity (`float`, *optional*, defaults to `0.1`):
            Share of the gaps between words that change, in [0, 1].

    Example:

    >>> WhitespacePerturbation(severity=0.5).apply("How do I bake bread?", Random(0))
    'How\ndo I bakebread?'
    """

    unit: ClassVar[str] = "gaps"

    def apply(self, text: str, rng: Random) -> str:
        words, gaps = split_words(text)
        inner = range(1, len(words))
        for index in rng.sample(inner, draw_count(self.severity, len(inner), rng)):
            gaps[index] = "" if rng.random() < 0.5 else rng.choice([gap for gap in _WIDER if gap != gaps[index]])
        return join_words(words, gaps)
