# SPDX-License-Identifier: Apache-2.0
"""How much of a text a perturbation affected, counted without its code: what several of their tests share."""

import numpy as np


def letters(text: str) -> int:
    return sum(letter.isalpha() for letter in text)


def changed_letters(before: str, after: str) -> tuple[int, int]:
    """Letters that are others now, of a text that keeps its length, and all letters."""
    return sum(a != b for a, b in zip(before, after, strict=True)), letters(before)


def edit_distance(before: str, after: str) -> int:
    """Insertions, deletions and substitutions between two texts, the textbook's table a row at a time."""
    columns, characters = np.arange(len(after) + 1), np.array(list(after))
    row = columns
    for index, letter in enumerate(before, 1):
        best = np.minimum(row[:-1] + (characters != letter), row[1:] + 1)
        # An insertion costs 1 a column, so the running minimum of cost minus column is the best way along the row.
        row = np.minimum.accumulate(np.concatenate(([index], best)) - columns) + columns
    return int(row[-1])
