# SPDX-License-Identifier: Apache-2.0
"""Rows for a probe: what they say of their side, and what is wrong with them."""

import pytest
from datasets import Dataset

from hf_ckt.data.boundary import load_boundary_set
from hf_ckt.evaluation.probing.rows import probe_rows


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


@pytest.mark.parametrize("cells", [[True, False], [1, 0], ["true", "False"], ["yes", "no"]])
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
