# SPDX-License-Identifier: Apache-2.0
"""Neighbouring words in the wrong order."""

import re
from random import Random

from hf_ckt.perturbations.word_swap import WordSwapPerturbation

UNIT = "words"


def measure(before: str, after: str) -> tuple[int, int]:
    return sum(a != b for a, b in zip(before.split(), after.split(), strict=True)), len(before.split())


def test_word_swap_moves_words_by_one_place_and_keeps_all_of_them_and_the_gaps():
    """A lost or repeated word changes the question; a word that moves far changes it more than severity says."""
    words = [f"w{index}" for index in range(20)]
    text = "".join(word + gap for word, gap in zip(words, 4 * [" ", "\n", "  ", "\t", ", "], strict=True))
    for severity in (0.2, 1.0):
        for seed in range(50):
            after = WordSwapPerturbation(severity=severity).apply(text, Random(seed))
            found = re.findall(r"w\d+", after)
            assert sorted(found) == sorted(words) and found != words
            assert all(abs(place - int(word[1:])) <= 1 for place, word in enumerate(found))
            assert re.findall(r"\s+", after) == re.findall(r"\s+", text)


def test_word_swap_does_not_count_a_swap_of_equal_words():
    """It would take from the severity what nobody sees."""
    # Only the last two differ, and both are to move: 0.4 of 5 words.
    for seed in range(50):
        assert WordSwapPerturbation(severity=0.4).apply("no no no no yes", Random(seed)) == "no no no yes no"
        assert WordSwapPerturbation(severity=1.0).apply("no no no no", Random(seed)) == "no no no no"
