# SPDX-License-Identifier: Apache-2.0
"""Batches hold whole groups, each row once, and the order is a run's own."""

import itertools
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import BatchSampler

from hf_ckt.data import load_boundary_set
from hf_ckt.data.grouped_batches import GroupedSampler, deal
from hf_ckt.data.row_groups import find_groups

SIZES = st.lists(st.integers(1, 6), max_size=30)


def groups_of(sizes):
    """Groups of these sizes, their rows scattered over the dataset."""
    rows = list(range(sum(sizes)))
    random.Random(0).shuffle(rows)
    numbers = iter(rows)
    return [[next(numbers) for _ in range(size)] for size in sizes]


def cut_groups(groups, batches):
    """Those whose rows are in several batches, counted without the code's own count."""
    where = {row: number for number, batch in enumerate(batches) for row in batch}
    return [group for group in groups if len({where[row] for row in group}) > 1]


def fits(sizes, rooms):
    """Whether groups of these sizes find room, by trying all ways."""
    if not sizes:
        return True
    return any(
        fits(sizes[1:], tuple(sorted((*rooms[:n], rooms[n] - sizes[0], *rooms[n + 1 :]))))
        for n in range(len(rooms))
        if rooms[n] >= sizes[0] and rooms[n] not in rooms[:n]
    )


@settings(deadline=None, max_examples=300)
@given(SIZES, st.integers(2, 9), st.integers(0, 99))
def test_each_row_is_drawn_once_in_batches_of_one_size(sizes, batch_size, seed):
    """A row that is drawn twice or never, or a short batch in the midst, which accelerate drops."""
    groups = groups_of(sizes)
    batches = deal(groups, batch_size, str(seed)).batches
    assert sorted(itertools.chain.from_iterable(batches)) == list(range(sum(sizes)))
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert all(0 < len(batch) <= batch_size for batch in batches)


@settings(deadline=None, max_examples=300)
@given(SIZES, st.integers(2, 9), st.integers(0, 99))
def test_as_many_groups_are_cut_as_are_said_to_be(sizes, batch_size, seed):
    """A warning that counts too few."""
    groups = groups_of(sizes)
    dealt = deal(groups, batch_size, str(seed))
    cut = cut_groups(groups, dealt.batches)
    larger = [group for group in groups if len(group) > batch_size]
    assert len([group for group in cut if len(group) <= batch_size]) == dealt.cut
    assert all(group in cut for group in larger)
    for group in larger:
        # Its first row, which the others are twins of, has as many of them as a batch holds.
        assert len(next(set(batch) & set(group) for batch in dealt.batches if group[0] in batch)) == batch_size


@settings(deadline=None, max_examples=300)
@given(st.lists(st.integers(2, 4), max_size=8), st.integers(0, 12), st.integers(4, 9), st.integers(0, 99))
def test_groups_are_whole_where_rows_that_stand_alone_fill_up(sizes, alone, batch_size, seed):
    """Batches filled up with parts of groups where single rows are at hand."""
    count = -(-(sum(sizes) + alone) // batch_size)
    # With so many, every batch has room for the largest group until all groups are dealt.
    enough = alone >= count * (max(sizes, default=1) - 1)
    groups = groups_of([*sizes, *[1] * alone])
    dealt = deal(groups, batch_size, str(seed))
    if enough:
        assert dealt.cut == 0 and not cut_groups(groups, dealt.batches)
    elif dealt.cut and len(set(sizes)) == 1:
        # Of groups of one size: only where no way of dealing them keeps all whole.
        rest = (sum(sizes) + alone) % batch_size
        rooms = [batch_size] * (count - (rest > 0)) + [rest] * (rest > 0)
        assert not fits(sizes, tuple(sorted(rooms)))


@pytest.mark.parametrize(("batch_size", "cut"), [(4, 0), (6, 0), (8, 0), (16, 0)])
def test_the_boundary_set_stays_whole(batch_size, cut):
    """The data that this is for, at the sizes of batches that it is trained with."""
    groups = find_groups(load_boundary_set("train"), "twin")
    for seed in range(3):
        dealt = deal(groups, batch_size, str(seed))
        fitting = [group for group in cut_groups(groups, dealt.batches) if len(group) <= batch_size]
        assert (dealt.cut, len(fitting)) == (cut, 0)


@pytest.mark.parametrize("seed", range(20))
def test_groups_that_fit_only_tightly_stay_whole(seed):
    """Two of 3 or three of 2 fill a batch of 6; at random, one of 3 and one of 2 would waste a place in some."""
    groups = groups_of([3] * 4 + [2] * 6)
    dealt = deal(groups, 6, str(seed))
    assert dealt.cut == 0 and not cut_groups(groups, dealt.batches)
    assert len(dealt.batches) == 4


def test_triples_in_batches_of_two_are_a_pair_and_one():
    """A harmful row without company, or always with the same twin."""
    groups = groups_of([3] * 10)
    partners: dict[int, Counter] = {group[0]: Counter() for group in groups}
    for epoch in range(30):
        batches = deal(groups, 2, str(epoch)).batches
        for first, *twins in groups:
            (other,) = next(set(batch) - {first} for batch in batches if first in batch)
            assert other in twins
            partners[first][other] += 1
    assert all(
        min(counts[twin] for twin in group[1:]) >= 5 for group, counts in zip(groups, partners.values(), strict=True)
    )


def test_groups_and_single_rows_are_mixed():
    """Batches of groups alone first, and of plain rows alone last, are another training than a random one."""
    groups = groups_of([3] * 40 + [1] * 200)
    batches = deal(groups, 8, "0").batches
    grouped = {row for group in groups if len(group) > 1 for row in group}
    shares = [sum(row in grouped for row in batch) for batch in batches]
    assert len(batches) == 40 and shares != sorted(shares) and shares != sorted(shares, reverse=True)
    assert shares.count(0) < 20  # as many as two groups in each that has any would leave without


def test_the_order_follows_seed_and_epoch():
    """Two seeds that are one run, an epoch that repeats the last, or a resumed run that draws anew."""
    groups = groups_of([3] * 8 + [1] * 20)

    def order(seed, epoch=0, trained=0):
        sampler = GroupedSampler(groups, 4, seed, lambda: trained)
        sampler.set_epoch(epoch)
        assert len(sampler) == len([*sampler])
        return [*sampler]

    orders = [order(seed, epoch) for seed in range(3) for epoch in range(3)]
    assert len({tuple(one) for one in orders}) == 9
    assert order(1, 2) == order(1, 2) == order(1, 0, trained=2) == order(1, 2, trained=1)


def test_a_loader_cuts_the_order_between_groups():
    """Batches of the sampler's own that a loader would cut elsewhere."""
    groups = groups_of([3] * 8 + [2] * 5 + [1] * 9)
    sampler = GroupedSampler(groups, 4, 0)
    for drop_last in (False, True):
        batches = [*BatchSampler(sampler, 4, drop_last)]
        assert batches == sampler.deal().batches[: len(batches)] and len(batches) == 43 // 4 + (not drop_last)


def test_a_batch_of_one_row_is_refused():
    """Groups in batches of one row are cut everywhere."""
    with pytest.raises(ValueError, match="per_device_train_batch_size: must be 2 or more, got 1"):
        GroupedSampler([[0, 1]], 1, 0)
