# SPDX-License-Identifier: Apache-2.0
"""What rows are known by: digits that differ where any value differs."""

import hashlib
import json
from typing import Any


def rows_fingerprint(rows: Any) -> str:
    """
    Returns 16 hexadecimal digits of rows' values and their order, the same on every machine; the order of columns does not count.

    Reads all rows.

    Args:
        rows (`~datasets.Dataset`):
            Not streamed. Images and sounds count by what is stored of them.

    Example:

    >>> from datasets import Dataset
    >>> rows_fingerprint(Dataset.from_list([{"prompt": "Hi"}]))
    '6fb8006866bd8319'
    """
    digest = hashlib.blake2b(digest_size=8)
    for table in rows.with_format("arrow").iter(batch_size=1000):
        for row in table.to_pylist():
            digest.update(json.dumps(row, sort_keys=True, default=repr).encode() + b"\n")
    return digest.hexdigest()
