# SPDX-License-Identifier: Apache-2.0
"""Rows that belong together are found, whatever a table's cells look like."""

import math

import pytest
from datasets import Dataset

from hf_ckt.data import load_boundary_set
from hf_ckt.data.row_groups import find_groups


def test_each_harmful_row_of_the_boundary_set_leads_its_twins():
    """A twin beside another harmful row would be contrasted with what it is no twin of."""
    rows = load_boundary_set("train")
    groups = find_groups(rows, "twin")
    assert sorted(row for group in groups for row in group) == list(range(len(rows)))
    several = [group for group in groups if len(group) > 1]
    assert len(several) == rows["kind"][:].count("harmful")
    for first, *twins in several:
        assert rows[first]["kind"] == "harmful"
        assert twins and all(rows[row]["twin"] == rows[first]["id"] for row in twins)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"pair": ["x", "y", "x", None, None]}, [[0, 2], [1], [3], [4]]),
        ({"pair": ["x", "", "x"]}, [[0, 2], [1]]),
        # The row that leads comes after its twins.
        ({"pair": ["b", "b", None], "id": ["p", "q", "b"]}, [[2, 0, 1]]),
        # A table of numbers, whose empty cells made it one of floats.
        ({"pair": [math.nan, 7.0, math.nan], "id": [7, 8, 9]}, [[0, 1], [2]]),
        # Two sets joined whose ids begin anew: nobody names them, so they are not one row.
        ({"pair": [None, None, None, "1"], "id": ["0", "0", "1", "2"]}, [[0], [1], [2, 3]]),
        # A row of a group of its own, whose id happens to be the name of another.
        ({"pair": [1, 1, 2, 2], "id": [2, 3, 1, 4]}, [[0, 1], [2, 3]]),
        # Two rows of one id: both lead, in their order.
        ({"pair": ["a", None, None], "id": ["t", "a", "a"]}, [[1, 2, 0]]),
    ],
)
def test_groups_are_those_of_equal_cells_and_of_the_row_that_is_named(columns, expected):
    """Each case was worked out by hand."""
    assert find_groups(Dataset.from_dict(columns), "pair") == expected


def test_a_column_that_is_missing_is_named_with_the_nearest():
    """Without a column nothing would be kept together, and no number would show it."""
    rows = load_boundary_set("validation")
    with pytest.raises(ValueError, match=r"group_column: the train dataset has no column 'twins'.*mean 'twin'"):
        find_groups(rows, "twins")
    with pytest.raises(ValueError, match=r"group_column: the train dataset streams.*Load it in full"):
        find_groups(rows.to_iterable_dataset(), "twin")
