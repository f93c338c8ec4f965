# SPDX-License-Identifier: Apache-2.0
"""Gaps between words that are missing, wider, or broken over lines."""

from collections import Counter
from random import Random

from hf_ckt.perturbations.whitespace import WhitespacePerturbation

UNIT = "gaps"


def gaps(text: str) -> list[str]:
    """What stands before each character that is no space, empty within a word."""
    found, gap = [], ""
    for character in text:
        if character.isspace():
            gap += character
        else:
            found.append(gap)
            gap = ""
    return found


def measure(before: str, after: str) -> tuple[int, int]:
    assert "".join(before.split()) == "".join(after.split()), "it changed more than the gaps"
    pairs = list(zip(gaps(before), gaps(after), strict=True))
    return sum(a != b for a, b in pairs), sum(a != "" for a, _ in pairs)


def test_whitespace_keeps_every_other_character_and_changes_each_gap_at_full_severity():
    """A gap that is replaced by itself would lower the severity; a lost letter is a typing error."""
    text = "\nWhy does\tbread  rise,\n\nand how? "
    for seed in range(100):
        after = WhitespacePerturbation(severity=1.0).apply(text, Random(seed))
        assert after.split() != [] and "".join(after.split()) == "Whydoesbreadrise,andhow?"
        assert after.startswith("\nW") and after.endswith("? ")
        for kept in ("Why does", "does\tbread", "bread  rise", "rise,\n\nand", "and how"):
            assert kept not in after


def test_whitespace_removes_half_of_the_gaps_and_writes_the_others_in_several_ways():
    """Removed gaps alone would train the student on text without spaces."""
    found = Counter(WhitespacePerturbation(severity=1.0).apply("a b", Random(seed))[1:-1] for seed in range(1000))
    assert found.keys() == {"", "  ", "   ", "\t", "\n"}
    assert abs(found.pop("") - 500) < 4 * 250**0.5
    assert min(found.values()) > 80


def test_gaps_are_told_apart_from_the_insides_of_words():
    """A removed gap joins two words, so that words cannot be compared by their number."""
    assert measure(" a bc\nd ", " abc\n\nd ") == (2, 3)
