# SPDX-License-Identifier: Apache-2.0
"""Confidence intervals of rates."""

import math
from collections.abc import Sequence

from ..checks import require_count, require_within

# 97.5 % quantile of the standard normal distribution: two-sided 95 %
_Z_95 = 1.959963984540054


def wilson_interval(successes: int, count: int) -> tuple[float, float]:
    """
    Returns the 95 % Wilson score interval of a rate.

    Source: Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953: right also near 0 and 1, where the normal
    interval leaves [0, 1].

    Args:
        successes (`int`):
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


def cluster_bootstrap_interval(
    clusters: Sequence[Sequence[float]], *, draws: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """
    Returns the 95 % percentile bootstrap interval of a mean over values that come in clusters: a prompt with all its
    corruptions is one cluster, drawn as a whole, since its values rise and fall together.

    Source: Efron 1979, https://doi.org/10.1214/aos/1176344552; clusters resampled as in Cameron, Gelbach and Miller 2008.

    Args:
        clusters (`Sequence[Sequence[float]]`):
            Values by cluster; every value weighs the same.
        draws (`int`, *optional*, defaults to `10000`):
            Resamples.
        seed (`int`, *optional*, defaults to `0`):
            The interval is the same for the same seed.

    Raises:
        ValueError: If there is no cluster, or an empty one.

    Example:

    >>> low, high = cluster_bootstrap_interval([[0.0, 0.0], [1.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    >>> low, high
    (0.25, 1.0)
    """
    require_count("clusters", min([len(clusters), *map(len, clusters)]), 1, "A mean of nothing has no interval.")
    # Imported here: rates are judged without numpy, and the command line reads this module's names.
    import numpy as np

    sums = np.array([sum(values) for values in clusters], dtype=float)
    sizes = np.array([len(values) for values in clusters], dtype=float)
    drawn = np.random.default_rng(seed).integers(0, len(clusters), size=(draws, len(clusters)))
    means = sums[drawn].sum(1) / sizes[drawn].sum(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
