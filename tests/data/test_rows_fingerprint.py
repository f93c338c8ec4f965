# SPDX-License-Identifier: Apache-2.0
"""Digits of rows: the same for the same values wherever they lie, and others for any other value or order."""

import hashlib
import json

import pytest
from datasets import Dataset, concatenate_datasets, load_dataset

from hf_ckt.data.rows_fingerprint import rows_fingerprint

ROWS = [{"prompt": f"prompt {number}", "n": number if number % 3 else None} for number in range(1200)]


def test_fingerprint_is_that_of_the_values_wherever_they_lie(tmp_path):
    """Digits that follow the layout of a file differ between two machines with the same data, and nobody can compare them."""
    data = Dataset.from_list(ROWS)
    expected = hashlib.blake2b(digest_size=8)
    for row in ROWS:
        expected.update(json.dumps(row, sort_keys=True).encode() + b"\n")
    found = rows_fingerprint(data)
    assert found == expected.hexdigest()
    parts = concatenate_datasets([data.select(range(7)), data.select(range(7, 1200))])
    turned = Dataset.from_list([dict(reversed(row.items())) for row in ROWS])
    data.to_json(tmp_path / "rows.jsonl")
    read = load_dataset(
        "json", data_files=str(tmp_path / "rows.jsonl"), split="train", cache_dir=str(tmp_path / "cache")
    )
    turned_twice = data.select(range(1199, -1, -1)).select(range(1199, -1, -1))
    assert {rows_fingerprint(one) for one in (parts, turned, read, turned_twice)} == {found}


@pytest.mark.parametrize(
    "changed",
    [ROWS[:-1], ROWS[::-1], [*ROWS[:-1], {"prompt": "prompt 1199 ", "n": 1199}]],
    ids=["fewer", "order", "one letter"],
)
def test_fingerprint_of_other_rows_is_another(changed):
    """Two trainings would be taken for one on the same data."""
    assert rows_fingerprint(Dataset.from_list(changed)) != rows_fingerprint(Dataset.from_list(ROWS))
