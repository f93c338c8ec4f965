# SPDX-License-Identifier: Apache-2.0
"""What rates and means are taken of: outcomes, and values of two kinds of prompts that should lie apart."""

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ...checks import require_count

if TYPE_CHECKING:
    import numpy as np


class Answers(NamedTuple):
    """
    The outcomes of one quantity.

    Args:
        values (`Sequence[float]`):
            Of each answer, in [0, 1].
        prompts (`Sequence`):
            What was asked, before any template or noise.
        ways (`Sequence`, *optional*):
            Under which template: a second grouping. None: there is one only.
    """

    values: Sequence[float]
    prompts: Sequence[Hashable]
    ways: Sequence[Hashable] | None = None


class Separation(NamedTuple):
    """
    Values of two kinds of prompts, whose rate is the area under the ROC curve: how often one of the first kind is above
    one of the second, ties counted half (Mann and Whitney 1947, https://doi.org/10.1214/aoms/1177730491).

    Args:
        above, below ([`Answers`]):
            Of the kind that should be higher, and of the other: any numbers, with their prompts and ways.
        above_runs, below_runs (`Sequence`, *optional*):
            Of which run each is: values are compared within a run only, and the areas of runs averaged. None: one run.
    """

    above: Answers
    below: Answers
    above_runs: Sequence[Hashable] | None = None
    below_runs: Sequence[Hashable] | None = None


def area_answers(name: str, one: Separation) -> Answers:
    """
    Returns values whose mean is the area, and whose spread is what each prompt moves it by (DeLong et al. 1988,
    https://doi.org/10.2307/2531595).

    Raises:
        ValueError: If a run lacks a kind.
    """
    import numpy as np

    sides = [np.asarray(side.values, float) for side in (one.above, one.below)]
    runs = [
        list(given) if given is not None else [0] * len(side)
        for given, side in zip((one.above_runs, one.below_runs), sides, strict=True)
    ]
    names = list(dict.fromkeys([*runs[0], *runs[1]]))
    require_count(name, min(len(sides[0]), len(sides[1])), 1, "Of one kind alone there is nothing to tell apart.")
    count = len(sides[0]) + len(sides[1])
    moved = [np.zeros(len(side)) for side in sides]
    areas = []
    for run in names:
        mine = [np.array([at for at, value in enumerate(side) if value == run], int) for side in runs]
        require_count(name, min(map(len, mine)), 1, "Of one kind alone there is nothing to tell apart.")
        above, below = (side[places] for side, places in zip(sides, mine, strict=True))
        shares = [share_below(above, below), 1 - share_below(below, above)]
        areas.append(shares[0].mean())
        for side in (0, 1):
            # A prompt of a rare kind moves the area more.
            weight = count / len(names) / len(mine[side])
            moved[side][mine[side]] = (shares[side] - areas[-1]) * weight
    ways = None
    if one.above.ways is not None and one.below.ways is not None:
        ways = [*one.above.ways, *one.below.ways]
    values = np.mean(areas) + np.concatenate(moved)
    return Answers(values.tolist(), [*one.above.prompts, *one.below.prompts], ways)


def share_below(mine: "np.ndarray", other: "np.ndarray") -> "np.ndarray":
    """Returns of each value the share of others that lie below it; ties count half."""
    import numpy as np

    ordered = np.sort(other)
    below, up_to = np.searchsorted(ordered, mine, "left"), np.searchsorted(ordered, mine, "right")
    return (below + up_to) / 2 / len(other)


def area_variance(area: float, above: int, below: int) -> float:
    """
    Returns what the variance of an area is where both kinds are spread exponentially (Hanley and McNeil 1982,
    https://doi.org/10.1148/radiology.143.1.7063747): of an area near 1, the prompts themselves show too little of it.
    """
    area = max(area, 1 - area)
    first, second = area / (2 - area), 2 * area**2 / (1 + area)
    spread = area * (1 - area) + (above - 1) * (first - area**2) + (below - 1) * (second - area**2)
    return spread / (above * below)
