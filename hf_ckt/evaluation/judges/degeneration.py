# SPDX-License-Identifier: Apache-2.0
"""Answers that say nothing, which no judge should count as help."""

from collections import Counter

from ..measuring.reasoning import without_thought

_NGRAM = 4


def is_degenerate(answer: str) -> bool:
    """
    Judges whether an answer is empty or repeats itself: more than half of its 4-grams of words occur more than once.
    A thought that it begins with (`<think>`) is no part of it.

    Example:

    >>> is_degenerate(""), is_degenerate("so it is " * 20), is_degenerate("Press Control and C in the terminal.")
    (True, True, False)
    """
    words = without_thought(answer).split()
    grams = Counter(tuple(words[start : start + _NGRAM]) for start in range(len(words) - _NGRAM + 1))
    repeated = sum(count for count in grams.values() if count > 1)
    return not words or repeated > grams.total() / 2
