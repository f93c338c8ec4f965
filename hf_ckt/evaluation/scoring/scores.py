# SPDX-License-Identifier: Apache-2.0
"""A score with its uncertainty, as results files hold it."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from .intervals import percentile_interval, wilson_interval

if TYPE_CHECKING:
    import numpy as np


class Score(TypedDict):
    """
    One number of a results file.

    Args:
        value, low, high (`float`, *optional*):
            The score and its 95 % interval; None where it is undefined.
        n (`int`):
            Prompts, responses or questions behind it.
        interval (`str`, *optional*):
            `"wilson"`, `"bootstrap"`, or None where there is none.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    interval: Literal["wilson", "bootstrap"] | None


def rate_score(outcomes: Sequence[bool]) -> Score:
    """
    Returns the share that is true, with its Wilson interval: for outcomes that do not depend on each other.

    Raises:
        ValueError: If there is no outcome.

    Example:

    >>> score = rate_score([True, True, False, True])
    >>> score["value"], score["n"], round(score["low"], 2)
    (0.75, 4, 0.3)
    """
    low, high = wilson_interval(sum(outcomes), len(outcomes))
    return {"value": sum(outcomes) / len(outcomes), "low": low, "high": high, "n": len(outcomes), "interval": "wilson"}


def bootstrap_score(value: float, draws: "np.ndarray", n: int) -> Score:
    """
    Returns a value with the percentile interval of its bootstrap draws.

    Args:
        value (`float`):
            The statistic of the data; NaN where it is undefined.
        draws (`numpy.ndarray` of shape `(draws,)`):
            The statistic of resamples; those that are undefined (NaN) are left out.
        n (`int`):
            Clusters that were resampled. Of a single one every resample is the same, which is no interval of width 0
            but none at all.

    Example:

    >>> import numpy as np
    >>> bootstrap_score(0.5, np.linspace(0, 1, 201), 40)
    {'value': 0.5, 'low': 0.025, 'high': 0.975, 'n': 40, 'interval': 'bootstrap'}
    """
    if value != value:
        return {"value": None, "low": None, "high": None, "n": n, "interval": None}
    low, high = percentile_interval(draws)
    if n < 2 or low is None:
        return {"value": float(value), "low": None, "high": None, "n": n, "interval": None}
    return {"value": float(value), "low": low, "high": high, "n": n, "interval": "bootstrap"}


def require_verdicts(rows: Sequence[Mapping[str, Any]]) -> None:
    """Raises ValueError when there is no row, or one that was never judged."""
    if not rows:
        raise ValueError("rows: there are none, and a rate of nothing is no number. Add answers first.")
    for row in rows:
        if row["refused"] is None or row["degenerate"] is None:
            raise ValueError(
                f"rows: the answer to {row['prompt_id']!r} has no verdict, and left out it would change the rate. Judge "
                "all answers first."
            )
