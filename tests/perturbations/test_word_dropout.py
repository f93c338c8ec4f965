# SPDX-License-Identifier: Apache-2.0
"""Words left out."""

from random import Random

from hf_ckt.perturbations.word_dropout import WordDropoutPerturbation

UNIT = "words"


def measure(before: str, after: str) -> tuple[int, int]:
    return len(before.split()) - len(after.split()), len(before.split())


def test_word_dropout_leaves_a_subsequence_with_its_own_gaps():
    """Words that come back in another order are another perturbation; a doubled gap would tell where a word was."""
    text = " How\ndo  I\tbake   bread? "
    gap_before = {"How": " ", "do": "\n", "I": "  ", "bake": "\t", "bread?": "   "}
    for seed in range(100):
        after = WordDropoutPerturbation(severity=0.4).apply(text, Random(seed))
        kept = [word for word in gap_before if word in after.split()]
        assert len(kept) == 3 and after.split() == kept
        assert after == " " + "".join(gap_before[word] + word for word in kept).lstrip() + " "


def test_word_dropout_at_full_severity_leaves_any_one_word():
    """Were it always the first, the student would learn to answer from that."""
    found = {WordDropoutPerturbation(severity=1.0).apply("How do I bake bread?", Random(seed)) for seed in range(100)}
    assert found == {"How", "do", "I", "bake", "bread?"}
