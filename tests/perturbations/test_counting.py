# SPDX-License-Identifier: Apache-2.0
"""The rulers that severities are measured with."""

import pytest

from tests.perturbations.counting import edit_distance


@pytest.mark.parametrize(
    "before, after, distance",
    [
        ("kitten", "sitting", 3),
        ("bread", "braed", 2),
        ("bread", "brad", 1),
        ("do", "ddo", 1),
        ("ab", "ab", 0),
        ("", "ab", 2),
    ],
)
def test_edit_distance_is_levenshteins(before, after, distance):
    """A wrong ruler would measure the severity asked for of a perturbation that has another."""
    assert edit_distance(before, after) == edit_distance(after, before) == distance
