# SPDX-License-Identifier: Apache-2.0
"""Confidence intervals: of a rate, and of any statistic of means over prompts that are resampled as clusters."""

import math
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

from ...checks import require_count, require_within

if TYPE_CHECKING:
    import numpy as np

# 97.5 % quantile of the standard normal distribution: two-sided 95 %
_Z_95 = 1.959963984540054
DRAWS = 10_000
_NUMBERS_AT_A_TIME = 2_000_000  # of the draws that are in memory: 16 MB


def wilson_interval(successes: float, count: int) -> tuple[float, float]:
    """
    Returns the 95 % Wilson score interval of a rate.

    Source: Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953: right also near 0 and 1, where the normal
    interval leaves [0, 1].

    Args:
        successes (`float`):
            How many, 0 to `count`.
        count (`int`):
            Out of how many, at least 1.

    Raises:
        ValueError: If there was nothing to count, or more successes than trials.

    Example:

    >>> [round(bound, 3) for bound in wilson_interval(8, 10)]
    [0.49, 0.943]
    """
    require_count("count", count, 1, "A rate of nothing has no interval.")
    require_within("successes", successes, 0, count, "A rate lies in [0, 1].")
    rate, squared = successes / count, _Z_95**2
    centre = (rate + squared / (2 * count)) / (1 + squared / count)
    half = _Z_95 / (1 + squared / count) * math.sqrt(rate * (1 - rate) / count + squared / (4 * count**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def resampled_means(
    sums: "np.ndarray",
    counts: "np.ndarray",
    strata: Sequence[Hashable] | None = None,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> "np.ndarray":
    """
    Resamples clusters, within strata, and returns the means of Q quantities in each resample.

    A prompt with all its corruptions and templates is one cluster, drawn as a whole, since its values rise and fall
    together; the kinds of prompts are strata, whose sizes were chosen and not drawn. A statistic of several means (an
    overall score, or the difference of two models) is then a function of the columns, resampled together.

    Source: Efron 1979, https://doi.org/10.1214/aos/1176344552; clusters as in Cameron, Gelbach and Miller 2008,
    https://doi.org/10.1162/rest.90.3.414.

    Args:
        sums, counts (`numpy.ndarray` of shape `(clusters, Q)`):
            Sum of each quantity's values in each cluster, and how many there are.
        strata (`Sequence`, *optional*):
            The stratum of each cluster; one for all by default.
        draws (`int`, *optional*, defaults to `10000`):
            Resamples.
        seed (`int`, *optional*, defaults to `0`):
            The same seed gives the same resamples. The order of clusters does not change them.

    Returns:
        `numpy.ndarray` of shape `(draws, Q)`: means; NaN where a resample holds no value of a quantity.

    Raises:
        ValueError: If there is no cluster, or not one stratum for each.
    """
    import numpy as np

    require_count("clusters", len(sums), 1, "A mean of nothing has no interval.")
    require_count("draws", draws, 1, "Of no resample there is no interval.")
    groups: dict[Hashable, list[int]] = {}
    for index, stratum in zip(range(len(sums)), strata if strata is not None else [0] * len(sums), strict=True):
        groups.setdefault(stratum, []).append(index)
    both = np.concatenate([sums, counts], axis=1).astype(float)
    # Equal clusters of a stratum (most, where values are verdicts) are drawn as one kind of cluster: the same
    # distribution, for as many random numbers as there are kinds. It also puts them in an order of their own.
    kinds = [np.unique(both[groups[stratum]], axis=0, return_counts=True) for stratum in sorted(groups, key=repr)]
    generator = np.random.default_rng(seed)
    at_a_time = max(1, _NUMBERS_AT_A_TIME // max(both.shape[1], *(len(repeats) for _, repeats in kinds)))
    means = []
    for start in range(0, draws, at_a_time):
        size = min(at_a_time, draws - start)
        total = sum(resampled_counts(generator, repeats, size) @ values for values, repeats in kinds)
        with np.errstate(divide="ignore", invalid="ignore"):
            means.append(total[:, : sums.shape[1]] / total[:, sums.shape[1] :])
    return np.concatenate(means)


def resampled_counts(generator: "np.random.Generator", repeats: "np.ndarray", draws: int) -> "np.ndarray":
    """Returns how often each of some different things, which occur `repeats` times, is drawn: `(draws, things)`."""
    return generator.multinomial(repeats.sum(), repeats / repeats.sum(), size=draws)


def percentile_interval(draws: "np.ndarray", clusters: int | None = None) -> tuple[float, float] | tuple[None, None]:
    """
    Returns the middle 95 % of bootstrap draws, those that are undefined (NaN) left out; (None, None) if all are.

    Args:
        draws (`numpy.ndarray` of shape `(draws,)`):
            Of the statistic.
        clusters (`int`, *optional*):
            How many were resampled. Draws from few are too close together, by what sets Student's t apart from the normal
            distribution: a little more than 95 % of them are taken (Hesterberg 2015,
            https://doi.org/10.1080/00031305.2015.1089789, section 4.1).
    """
    import numpy as np

    defined = draws[~np.isnan(draws)]
    if not len(defined):
        return None, None
    outside = 2.5
    if clusters is not None and clusters > 1:
        bound = student_t_quantile(clusters - 1) * math.sqrt(clusters / (clusters - 1))
        outside = 50 * math.erfc(bound / math.sqrt(2))
    low, high = np.percentile(defined, [outside, 100 - outside])
    return float(low), float(high)


def student_t_quantile(freedom: float) -> float:
    """
    Returns the 97.5 % quantile of Student's t distribution (Cornish-Fisher expansion, Abramowitz and Stegun 26.7.5; within
    0.01 from 4 degrees of freedom on).
    """
    z, squared = _Z_95, _Z_95**2
    terms = (
        z,
        z * (squared + 1) / 4,
        z * ((5 * squared + 16) * squared + 3) / 96,
        z * (((3 * squared + 19) * squared + 17) * squared - 15) / 384,
    )
    return sum(term / freedom**power for power, term in enumerate(terms))
