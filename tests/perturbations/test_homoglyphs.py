# SPDX-License-Identifier: Apache-2.0
"""Letters that only look the same."""

import string
import unicodedata
from random import Random

from hf_ckt.perturbations.homoglyphs import HomoglyphsPerturbation
from tests.perturbations.counting import changed_letters

UNIT = "letters"
measure = changed_letters


def look_alikes() -> str:
    return HomoglyphsPerturbation(severity=1.0).apply(string.ascii_letters, Random(0))


def test_every_latin_letter_has_a_look_alike_of_its_own():
    """A letter that is replaced by itself, or two by one, changes less than severity says or the text's meaning."""
    found = look_alikes()
    assert len(found) == len(set(found)) == 52  # one code point each
    assert not any(letter.isascii() or letter.isspace() for letter in found)


def test_look_alikes_survive_canonical_normalisation():
    """A tokenizer that normalises (Qwen's does, by NFC) would undo the perturbation before the student sees it."""
    assert unicodedata.normalize("NFC", look_alikes()) == look_alikes()


def test_homoglyphs_replace_latin_letters_alone():
    """At a place that changed no ASCII is left, and everything else is what it was."""
    text = "How do I bake 2 loaves? Так, 你好é!"
    alike = dict(zip(string.ascii_letters, look_alikes(), strict=True))
    for seed in range(50):
        after = HomoglyphsPerturbation(severity=0.4).apply(text, Random(seed))
        changed = [(a, b) for a, b in zip(text, after, strict=True) if a != b]
        assert len(changed) in (6, 7)  # 0.4 of 16 letters
        assert all(b == alike[a] and not b.isascii() for a, b in changed)
