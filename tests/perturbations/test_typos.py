# SPDX-License-Identifier: Apache-2.0
"""Typing errors: which there are, and what counts as a neighbouring key."""

from collections import Counter
from random import Random

import pytest

from hf_ckt.perturbations.typos import TyposPerturbation
from tests.perturbations.counting import edit_distance, letters

UNIT = "letters"


def measure(before: str, after: str) -> tuple[int, int]:
    return edit_distance(before, after), letters(before)


def slip(before: str, after: str) -> str:
    """Names the one slip between two words whose letters are all different, or raises."""
    if after in {before[:i] + before[i + 1 :] for i in range(len(before))}:
        return "drop"
    if after in {before[: i + 1] + before[i:] for i in range(len(before))}:
        return "double"
    if after in {before[:i] + before[i + 1] + before[i] + before[i + 2 :] for i in range(len(before) - 1)}:
        return "swap"
    if len(after) == len(before) and sum(a != b for a, b in zip(before, after, strict=True)) == 1:
        return "neighbour"
    raise ValueError(after)


def test_typos_are_of_all_four_kinds():
    """A kind that is never drawn leaves the student untrained on it, and severity measures right all the same."""
    one = Counter(slip("keyboard", TyposPerturbation(severity=1 / 8).apply("keyboard", Random(i))) for i in range(600))
    assert one.keys() == {"drop", "double", "neighbour"}  # a swap would be two letters
    assert all(150 < count < 250 for count in one.values())
    # A swap, or two other slips, of which the swap is seen here.
    both = [TyposPerturbation(severity=2 / 8).apply("keyboard", Random(i)) for i in range(600)]
    swapped = [after for after in both if sorted(after) == sorted("keyboard")]
    assert len(swapped) > 60 and {slip("keyboard", after) for after in swapped} == {"swap"}


@pytest.mark.parametrize("key, neighbours", [("g", "tyfhvb"), ("q", "wa"), ("p", "ol"), ("m", "njk"), ("s", "weadzx")])
def test_neighbouring_keys_are_those_of_a_keyboard(key, neighbours):
    """Rows that are set off the wrong way give slips that no finger makes."""
    perturbation = TyposPerturbation(severity=1.0)
    for case in (str.lower, str.upper):
        letter = case(key)
        # A letter that stands alone is not dropped.
        found = {perturbation.apply(letter, Random(seed)) for seed in range(300)}
        assert found == {2 * letter, *case(neighbours)}


def test_letters_without_a_key_and_signs_are_never_replaced():
    """Other alphabets get the other slips; a changed digit would be another question."""
    for seed in range(100):
        after = TyposPerturbation(severity=0.5).apply("12 + 34 = 你好吗 привет?", Random(seed))
        assert set(after) <= set("12 + 34 = 你好吗 привет?")
        assert "".join(sign for sign in after if not sign.isalpha()) == "12 + 34 =  ?"
