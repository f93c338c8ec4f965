# SPDX-License-Identifier: Apache-2.0
"""Packing in which the documents of a group stand in one row."""

from collections.abc import Sequence
from itertools import accumulate, chain
from typing import Any

import numpy as np
from datasets import Dataset
from trl import pack_dataset

_STARTS = "hf_ckt_starts"
_LENGTHS = "seq_lengths"
_TOKENS = ("input_ids", "labels")


def join_groups(lengths: Sequence[int], groups: Sequence[Sequence[int]], max_length: int) -> list[list[int]]:
    """
    Returns the numbers of the documents that are packed as one.

    Args:
        lengths (`Sequence[int]`):
            Tokens in each document.
        groups (`Sequence[Sequence[int]]`):
            Numbers of the documents in each group. One that does not fit into a packed row is cut between documents, as many
            as have room beside its first.
        max_length (`int`):
            Tokens that a packed row has room for. A document that is longer stays alone.

    Example:

    >>> join_groups([5, 9, 2, 3], [[0, 1, 2], [3]], max_length=10)
    [[0, 2], [1], [3]]
    """
    units = []
    for group in groups:
        joined: list[tuple[list[int], int]] = []
        for document in group:
            length = lengths[document]
            place = next((n for n, (_, sum_) in enumerate(joined) if sum_ + length <= max_length), None)
            if place is None:
                joined.append(([document], length))
            else:
                documents, before = joined[place]
                joined[place] = ([*documents, document], before + length)
        units += [documents for documents, _ in joined]
    return units


def pack_groups(
    dataset: Dataset,
    groups: Sequence[Sequence[int]],
    max_length: int,
    strategy: str,
    *,
    shuffle_seed: int | None = None,
    processes: int | None = None,
) -> tuple[Dataset, int]:
    """
    Packs documents as TRL does, those of a group into one row.

    Args:
        dataset (`datasets.Dataset`):
            Tokenized documents with their labels.
        groups (`Sequence[Sequence[int]]`):
            Numbers of the rows in each group.
        max_length (`int`):
            Tokens that a packed row has room for.
        strategy (`str`):
            `"bfd"` truncates a document that is longer, `"bfd_split"` splits it.
        shuffle_seed (`int`, *optional*):
            Shuffles with it what is packed, and the packed rows. None: neither.
        processes (`int`, *optional*):
            How many do it.

    Returns:
        `tuple[datasets.Dataset, int]`: rows with `input_ids`, `labels` and `seq_lengths`, and the number of groups that did
        not fit into one.
    """
    documents = dataset.with_format(None).select_columns([*_TOKENS])
    lengths = [len(ids) for ids in documents["input_ids"]]
    # TRL leaves out what is empty; joined to others it would begin where they do.
    units = join_groups(lengths, [[row for row in group if lengths[row]] for group in groups], max_length)

    def join(_: dict[str, Any], number: int) -> dict[str, Any]:
        rows = documents[units[number]]
        sizes = [*map(len, rows["input_ids"])]
        starts = np.zeros(sum(sizes), dtype=np.int8)
        starts[[0, *accumulate(sizes[:-1])]] = 1
        return {**{name: [*chain.from_iterable(values)] for name, values in rows.items()}, _STARTS: starts}

    joined = documents.select([unit[0] for unit in units]).map(
        join, with_indices=True, num_proc=processes, desc="Joining the documents of groups"
    )
    if shuffle_seed is not None:
        joined = joined.shuffle(seed=shuffle_seed)
    settings = {"num_proc": processes, "desc": "Packing groups of the train dataset"}
    packed = pack_dataset(joined, max_length, strategy, settings).map(
        _lengths_of_documents,
        remove_columns=[_STARTS],
        num_proc=processes,
        desc="Finding the documents of packed rows",
    )
    if shuffle_seed is not None:
        packed = packed.shuffle(seed=shuffle_seed)
    unit_of = {row: number for number, unit in enumerate(units) for row in unit}
    return packed, sum(len({unit_of[row] for row in group if row in unit_of}) > 1 for group in groups)


def _lengths_of_documents(row: dict[str, Any]) -> dict[str, Any]:
    """Where units begin, TRL says, those that it split from a longer one too; where documents do within them, their column."""
    begins = {0, *accumulate(row[_LENGTHS]), *np.flatnonzero(row[_STARTS]).tolist()}
    return {_LENGTHS: np.diff(sorted(begins)).tolist()}
