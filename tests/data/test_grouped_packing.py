# SPDX-License-Identifier: Apache-2.0
"""Packed rows hold whole groups, and their documents are those that were packed."""

import random

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from trl import pack_dataset

from hf_ckt.data.grouped_packing import join_groups, pack_groups
from hf_ckt.data.row_marks import marked


def documents_of(lengths):
    """Documents that no two are alike of, the first half of each masked, a mark in the labels that count."""
    rows = []
    for number, length in enumerate(lengths):
        ids = [number * 100 + place for place in range(length)]
        labels = marked([-100] * (length // 2) + ids[length // 2 :], number % 3 + 2**18)
        rows.append({"input_ids": ids, "labels": labels, "beside": str(number)})
    return Dataset.from_list(rows)


def unpacked(packed):
    """The documents of each packed row, cut where it says that they begin: `[[(ids, labels), ...], ...]`."""
    rows = []
    for row in packed:
        assert sum(row["seq_lengths"]) == len(row["input_ids"]) == len(row["labels"])
        documents, start = [], 0
        for length in row["seq_lengths"]:
            cut = slice(start, start + length)
            documents.append((tuple(row["input_ids"][cut]), tuple(row["labels"][cut])))
            start += length
        rows.append(documents)
    return rows


def row_of(packed):
    """In which packed row the first token of each document is."""
    return {ids[0]: number for number, row in enumerate(unpacked(packed)) for ids, _ in row}


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=5), min_size=1, max_size=8),
    st.integers(6, 30),
    st.sampled_from([None, 3]),
)
def test_documents_are_those_that_were_packed_and_groups_share_a_row(groups, max_length, shuffle_seed):
    """Boundaries that are a token off train each document's end on the next one's beginning."""
    lengths = [length for group in groups for length in group]
    order = list(range(len(lengths)))
    random.Random(len(lengths)).shuffle(order)
    numbers = iter(order)
    members = [[next(numbers) for _ in group] for group in groups]
    by_row = [0] * len(lengths)
    for rows, group in zip(members, groups, strict=True):
        for row, length in zip(rows, group, strict=True):
            by_row[row] = length
    dataset = documents_of(by_row)
    packed, cut = pack_groups(dataset, members, max_length, "bfd", shuffle_seed=shuffle_seed)
    assert packed.column_names == ["input_ids", "labels", "seq_lengths"]
    expected = [(tuple(row["input_ids"][:max_length]), tuple(row["labels"][:max_length])) for row in dataset]
    assert sorted(document for row in unpacked(packed) for document in row) == sorted(expected)
    assert all(len(row["input_ids"]) <= max_length for row in packed)
    where = row_of(packed)
    fit = [rows for rows in members if sum(min(by_row[row], max_length) for row in rows) <= max_length]
    assert all(len({where[row * 100] for row in rows}) == 1 for rows in fit)
    assert cut == len(members) - len(fit)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=12), st.integers(4, 12))
def test_without_groups_it_is_packing_as_trl_does_it(lengths, max_length):
    """Another packing for rows that stand alone would change runs that have no groups."""
    dataset = documents_of(lengths)
    for strategy in ("bfd", "bfd_split"):
        packed, cut = pack_groups(dataset, [[row] for row in range(len(lengths))], max_length, strategy)
        theirs = pack_dataset(dataset.select_columns(["input_ids", "labels"]), max_length, strategy)
        assert packed[:] == theirs[:] and cut == 0


def test_documents_that_are_split_keep_all_tokens_and_leave_their_group():
    """The remainder of a long document is a document of its own, as TRL has it; nothing of the group is lost."""
    dataset = documents_of([23, 3, 4, 6])
    packed, cut = pack_groups(dataset, [[0, 1, 2], [3]], 10, "bfd_split")
    documents = sorted(ids for row in unpacked(packed) for ids, _ in row)
    tokens = list(range(23))
    assert documents == sorted(
        map(tuple, [tokens[:10], tokens[10:20], tokens[20:], range(100, 103), range(200, 204), range(300, 306)])
    )
    where = row_of(packed)
    assert where[100] == where[200] and cut == 1


def test_what_does_not_fit_is_cut_between_documents_beside_the_first():
    """Of twins that do not all fit, those that do stay with the harmful row."""
    assert join_groups([6, 5, 3, 2, 1], [[0, 1, 2, 3, 4]], 10) == [[0, 2, 4], [1, 3]]


def test_empty_documents_are_left_out():
    """A beginning without a token would be the next document's."""
    packed, cut = pack_groups(documents_of([3, 0, 2, 0, 0]), [[0, 1, 2, 3], [4]], 8, "bfd")
    assert packed["seq_lengths"][:] == [[3, 2]] and cut == 0


def test_an_order_follows_its_seed():
    """A seed that changes nothing."""
    dataset = documents_of([4, 5, 3, 6, 2, 5, 4, 3])
    groups = [[0, 1], [2, 3], [4], [5], [6], [7]]
    orders = [pack_groups(dataset, groups, 12, "bfd", shuffle_seed=seed)[0]["input_ids"][:] for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize("processes", [None, 2])
def test_packing_in_several_processes_is_the_same(processes):
    """Units that are numbered anew in each process would be joined from other rows."""
    dataset = documents_of([4, 5, 3, 6, 2, 5, 4, 3])
    packed, _ = pack_groups(dataset, [[0, 7], [2, 5], [1, 3], [4], [6]], 12, "bfd", processes=processes)
    where = row_of(packed)
    assert len(where) == 8 and where[0] == where[700] and where[200] == where[500] and where[100] == where[300]
