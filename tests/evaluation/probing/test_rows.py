# SPDX-License-Identifier: Apache-2.0
"""Rows for a probe: what they say of their side, and what is wrong with them."""

import math

import pytest
from datasets import Dataset

from hf_ckt.data.boundary import load_boundary_set
from hf_ckt.evaluation.probing.rows import probe_rows, require_apart


def read(**columns):
    return probe_rows(Dataset.from_dict(columns), "mine.jsonl", "--data")


def test_the_boundary_sets_rows_keep_their_kind_and_group():
    """A twin in a group of its own makes intervals too narrow."""
    rows = probe_rows(load_boundary_set("validation"), "boundary set", "--validation")
    by_id = {row.id: row for row in rows}
    twin = by_id["boundary-validation-twin-001"]
    assert (twin.kind, twin.harmful, twin.cluster) == ("twin", False, "boundary-validation-harmful-001")
    harmful = by_id["boundary-validation-harmful-001"]
    assert harmful.harmful and harmful.cluster == harmful.id and harmful.category == "weapons"


@pytest.mark.parametrize("cells", [[True, False], [1, 0], [1.0, 0.0], ["true", "False"], ["yes", "no"]])
def test_harmful_may_be_written_in_many_ways(cells):
    """The text `false` is true to Python, and would be a prompt to refuse."""
    assert [row.harmful for row in read(prompt=["a", "b"], harmful=cells)] == [True, False]


@pytest.mark.parametrize(
    "columns, message",
    [
        ({"text": ["a"], "kind": ["harmful"]}, r"--data: the mine\.jsonl dataset has no column 'prompt'"),
        ({"prompt": ["a"], "label": ["x"]}, r"neither a column 'kind' nor 'harmful' \(it has 'prompt', 'label'\)"),
        (
            {"prompt": ["a", "b"], "kind": ["harmfull", "plain"]},
            r"are not harmful .* Should 'harmful' .* 'harmfull'\?",
        ),
        ({"prompt": ["a", "b"], "kind": ["unsafe", "safe"]}, "Rows to refuse are those of kind 'harmful'"),
        ({"prompt": ["a", "b"], "kind": ["harmful", "harmful"]}, "all 2 rows of mine.jsonl are harmful"),
        ({"prompt": ["a", " "], "kind": ["harmful", "plain"]}, r"row 2 has ' ' as its prompt"),
        (
            {
                "prompt": [[{"role": "user", "content": "a"}], [{"role": "user", "content": ""}]],
                "harmful": [True, False],
            },
            r"row 2 has .* as its prompt",
        ),
        (
            {"prompt": [[{"role": "user", "content": None}]], "harmful": [True]},
            r"row 1 has .* as its prompt",
        ),
        ({"prompt": ["a", "b"], "harmful": [1.0, math.nan]}, "row 2 says neither"),
        ({"prompt": ["a", "b"], "harmful": ["true", "perhaps"]}, "row 2 has 'perhaps' as harmful"),
        ({"prompt": ["a", "b"], "kind": ["harmful", None]}, "row 2 says neither"),
        (
            {"prompt": ["a"], "kind": ["plain"], "harmful": [True]},
            "harmful true and kind 'plain', of which one is wrong",
        ),
    ],
)
def test_rows_that_say_no_side_are_refused(columns, message):
    """Taken for benign, they would teach the probe to let harmful prompts pass."""
    with pytest.raises(ValueError, match=message):
        read(**columns)


def test_names_in_cells_that_a_table_made_numbers_still_name_rows():
    """A column with an empty cell is one of floats: twins of the row 7 would be a group without it, and intervals too narrow."""
    harmful, twin, alone = read(
        prompt=["a", "b", "c"],
        harmful=[1, 0, 0],
        id=[7, 8, 9],
        twin=[math.nan, 7.0, math.nan],
        category=["", None, "x"],
    )
    assert harmful.cluster == twin.cluster == "7" and alone.cluster == "9"
    assert [row.category for row in (harmful, twin, alone)] == ["", "", "x"]


def test_a_text_and_the_message_of_it_are_one_prompt():
    """Layers would be chosen by what was learnt by heart, wherever one file has texts and the other messages."""
    train = read(prompt=["a", "b"], harmful=[True, False])
    said = [[{"role": "user", "content": text, "name": None}] for text in ("c", "b")]
    with pytest.raises(ValueError, match=r"validation: 1 of its 2 prompts .*first: row 2 and row 2"):
        require_apart(train, read(prompt=said, harmful=[True, False]))
