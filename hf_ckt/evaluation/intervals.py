# SPDX-License-Identifier: Apache-2.0
"""Confidence intervals of rates."""

import math

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
