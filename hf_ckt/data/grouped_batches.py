# SPDX-License-Identifier: Apache-2.0
"""An order of rows in which each batch holds whole groups of them."""

import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

from torch.utils.data import Sampler

from ..checks import require_count


class Deal(NamedTuple):
    """
    The batches of an epoch.

    Args:
        batches (`list[list[int]]`):
            Numbers of the rows in each; all of one size but the last, which holds the rest.
        cut (`int`):
            Groups that would fit into a batch, and are in several.
    """

    batches: list[list[int]]
    cut: int


def deal(groups: Sequence[Sequence[int]], batch_size: int, seed: str) -> Deal:
    """
    Deals rows out to batches at random, each row once, so that a group's rows are in one batch.

    A group is cut where it has more rows than a batch, or where whole groups and the rows that stand alone do not fill the
    batches. The rows that come first in a group are then in its largest piece, and which others are there is drawn anew.

    Args:
        groups (`Sequence[Sequence[int]]`):
            Numbers of the rows in each group, those that stand alone as groups of one.
        batch_size (`int`):
            Rows in a batch.
        seed (`str`):
            What the deal depends on.

    Example:

    >>> dealt = deal([[0, 1, 2], [3], [4, 5]], batch_size=4, seed="0")
    >>> [sorted(batch) for batch in dealt.batches]
    [[0, 1, 2, 3], [4, 5]]
    """
    draw = random.Random(seed)
    count, rest = divmod(sum(map(len, groups)), batch_size)
    sizes = [batch_size] * count + [rest] * (rest > 0)
    units: list[list[int]] = []
    alone: list[list[int]] = []
    for group in groups:
        # The first row is the one that the others are twins of.
        rows = [group[0], *draw.sample(group[1:], len(group) - 1)]
        for piece in (rows[start : start + batch_size] for start in range(0, len(rows), batch_size)):
            (units if len(piece) > 1 else alone).append(piece)
    draw.shuffle(units)
    draw.shuffle(alone)
    units.sort(key=len, reverse=True)
    # Anywhere at first, which mixes best; where that leaves some over, as tightly as can be.
    for tight in (False, True):
        batches = _Batches(sizes, draw, tight)
        over = [unit for unit in units if not batches.take(unit)]
        if not over:
            break
    for unit in over:
        while len(unit) > 1:
            unit = batches.take_part(unit)
        alone.extend([unit] if unit else [])
    batches.fill([row for unit in alone for row in unit])
    fitting = {group[0] for group in groups if len(group) <= batch_size}
    return Deal(batches.rows, sum(unit[0] in fitting for unit in over))


class _Batches:
    """Batches that fill up, each as likely as any other with the same room left."""

    def __init__(self, sizes: list[int], draw: random.Random, tight: bool):
        self.rows: list[list[int]] = [[] for _ in sizes]
        self.draw, self.tight = draw, tight
        self.with_room: dict[int, list[int]] = defaultdict(list)
        for number, size in enumerate(sizes):
            self.with_room[size].append(number)

    def take(self, unit: list[int]) -> bool:
        """Puts rows into a batch that has room for all of them, and returns whether there is one."""
        rooms = sorted(room for room, numbers in self.with_room.items() if numbers and room >= len(unit))
        if not rooms:
            return False
        room = rooms[0] if self.tight else self.draw.choices(rooms, [len(self.with_room[one]) for one in rooms])[0]
        self._put(unit, room)
        return True

    def take_part(self, unit: list[int]) -> list[int]:
        """Puts as many of the rows as find room in one batch there, and returns the others."""
        room = max(room for room, numbers in self.with_room.items() if numbers)
        self._put(unit[:room], room)
        return unit[room:]

    def fill(self, rows: list[int]) -> None:
        """Fills all batches up with as many rows as there is room for."""
        left = iter(rows)
        for room, numbers in self.with_room.items():
            for number in numbers:
                self.rows[number].extend(next(left) for _ in range(room))

    def _put(self, unit: list[int], room: int) -> None:
        numbers = self.with_room[room]
        place = self.draw.randrange(len(numbers))
        numbers[place], numbers[-1] = numbers[-1], numbers[place]
        number = numbers.pop()
        self.rows[number].extend(unit)
        self.with_room[room - len(unit)].append(number)


class GroupedSampler(Sampler[int]):
    """
    Draws each row once an epoch, in an order that a loader of batches cuts between groups.

    An order of rows and not of batches, so that it is sharded over ranks, dropped at the end and skipped on resuming as any
    other sampler's.

    Args:
        groups (`Sequence[Sequence[int]]`), batch_size (`int`):
            See [`deal`].
        seed (`int`):
            The run's; with the epoch it decides the order.
        trained_epochs (`Callable[[], int]`, *optional*):
            Epochs that the run has behind it. accelerate tells a sampler the epoch, but not through the loader that skips
            batches on several processes.

    Raises:
        ValueError: If a batch holds one row.
    """

    def __init__(
        self,
        groups: Sequence[Sequence[int]],
        batch_size: int,
        seed: int,
        trained_epochs: Callable[[], int] = lambda: 0,
    ):
        require_rows(batch_size)
        self.groups, self.batch_size, self.seed, self.trained_epochs = groups, batch_size, seed, trained_epochs
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Says which epoch is drawn next."""
        self.epoch = epoch

    def deal(self) -> Deal:
        """Returns the batches of the epoch."""
        # Seed and epoch apart, not added: else the second epoch of a seed would be the first one of the next.
        return deal(self.groups, self.batch_size, f"{self.seed}, {max(self.epoch, self.trained_epochs())}")

    def __iter__(self) -> Iterator[int]:
        return chain.from_iterable(self.deal().batches)

    def __len__(self) -> int:
        return sum(map(len, self.groups))


def require_rows(batch_size: int) -> None:
    """Raises ValueError where no two rows can be in one batch."""
    require_count(
        "per_device_train_batch_size",
        batch_size,
        2,
        "With group_column a group's rows are kept in one batch, which has no room for two. Raise it, or use packing=True.",
    )
