# SPDX-License-Identifier: Apache-2.0
"""A sentence that has nothing to do with the question."""

from random import Random

import pytest

from hf_ckt.perturbations.distractor import DistractorPerturbation

UNIT = "words"


def measure(before: str, after: str) -> tuple[int, int]:
    return len(after.split()) - len(before.split()), len(before.split())


def test_distractor_stands_before_or_after_the_text_which_stays_as_it_is():
    """A distractor always in one place is learnt by its place, and one inside the text changes the question."""
    text = "How do I\n  bake bread?"
    before = after = 0
    for seed in range(200):
        found = DistractorPerturbation(severity=1.0).apply(text, Random(seed))
        assert found.count(text) == 1 and found != text
        before += found.endswith(f" {text}")
        after += found.startswith(f"{text} ")
    assert before + after == 200
    assert abs(before - 100) < 4 * 50**0.5


@pytest.mark.parametrize("asked", [*range(1, 11), 11, 17, 25, 40])
def test_distractor_adds_exactly_as_many_words_as_asked(asked):
    """Sentences filed under a wrong number of words would make it stronger or weaker than other perturbations."""
    text = " ".join(["word"] * 40)
    for seed in range(40):
        found = DistractorPerturbation(severity=asked / 40).apply(text, Random(seed))
        added = found.replace(text, "").strip()
        assert len(added.split()) == asked
        # Whole sentences, and no question beside the text's own.
        assert added[0].isupper() and added[-1] == "." and "?" not in added
