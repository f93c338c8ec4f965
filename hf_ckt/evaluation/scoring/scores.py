# SPDX-License-Identifier: Apache-2.0
"""A score with its uncertainty, as results files hold it, and what is known of each score beforehand."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NotRequired, TypedDict

from .intervals import percentile_interval, wilson_interval

if TYPE_CHECKING:
    import numpy as np


_DEGENERATE = 1e-7  # draws closer than that differ by rounding alone


class Corrected(TypedDict):
    """A score as it would be by a judge without error, with its 95 % interval."""

    value: float
    low: float
    high: float


class Score(TypedDict):
    """
    One number of a results file.

    Args:
        value, low, high (`float`, *optional*):
            The score and its 95 % interval; None where it is undefined.
        n (`int`):
            Prompts, responses or questions behind it.
        interval (`str`, *optional*):
            `"wilson"`: a share of answers that stand alone; `"clustered"`: of [`Rates`]; `"bootstrap"`; None where there is
            none.
        corrected (`Corrected`, *optional*):
            Of a judge's rates, where its error is known.
        dropped (`int`, *optional*):
            Bootstrap draws that were undefined and left out, where there were any.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    interval: Literal["wilson", "clustered", "bootstrap"] | None
    corrected: NotRequired[Corrected]
    dropped: NotRequired[int]


class Difference(TypedDict):
    """How much higher a score is than another model's, on what both were asked, with its 95 % interval."""

    difference: float
    low: float
    high: float


class Nature(NamedTuple):
    """
    What a score can be.

    Args:
        low, high (`float`, *optional*):
            Its bounds; None: it has none.
        chance (`float`, *optional*):
            What it is of a model that does not look at what is asked; None where that differs from model to model.
        judged (`bool`):
            Whether it is made of a judge's verdicts, whose error can be corrected for.
    """

    low: float | None = None
    high: float | None = None
    chance: float | None = None
    judged: bool = False


_SHARE, _JUDGED_SHARE = Nature(0.0, 1.0), Nature(0.0, 1.0, judged=True)
_YOUDEN, _AREA = Nature(-1.0, 1.0, 0.0, judged=True), Nature(0.0, 1.0, 0.5)
SCORES: dict[str, Nature] = {
    **dict.fromkeys(("youden_j", "youden_j_direct", "youden_j_jailbreak"), _YOUDEN),
    **dict.fromkeys(("safety", "helpfulness"), _JUDGED_SHARE),
    "oss": Nature(0.0, 100.0, 50.0),
    **dict.fromkeys(("attack_success_direct", "attack_success_jailbreak"), _JUDGED_SHARE),
    **dict.fromkeys(("overrefusal", "overrefusal_jailbreak"), _JUDGED_SHARE),
    "degenerate": _SHARE,
    **dict.fromkeys(
        ("refusal_auroc", "refusal_auroc_jailbreak", "refusal_auroc_noise", "refusal_margin_auroc"), _AREA
    ),
    **dict.fromkeys(("probe_auroc", "probe_auroc_jailbreak", "probe_auroc_noise"), _AREA),
    **dict.fromkeys(("refusal_log_odds_harmful", "refusal_log_odds_benign"), Nature()),
    "youden_j_noise": _YOUDEN,
    "youden_j_noise_difference": Nature(-200.0, 200.0, 0.0, judged=True),
    **dict.fromkeys(("noisy_refusal_harmful", "noisy_refusal_benign"), _JUDGED_SHARE),
    **dict.fromkeys(("harmful_flipped_to_answer", "harmful_flipped_to_refusal"), _SHARE),
    **dict.fromkeys(("benign_flipped_to_answer", "benign_flipped_to_refusal"), _SHARE),
    "token_consistency": _SHARE,
    **dict.fromkeys(("kd_alignment", "kd_alignment_noise", "top1_agreement", "top10_overlap"), _SHARE),
    "kl": Nature(0.0),
    "jsd": _SHARE,
    "gap_closed": Nature(None, 1.0),
    "calibration_error": Nature(0.0, 1.0),
    **dict.fromkeys(("base_agreement", "base_agreement_noise"), _SHARE),
    "multiple_choice": _SHARE,
    "multiple_choice_over_chance": Nature(-100.0, 100.0, 0.0),
    "word_problems": _SHARE,
    "plain_text_nats": Nature(0.0),
}
"""Every score of a results file."""


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


def drawn_score(
    name: str, value: float, draws: "np.ndarray", n: int, interval: Literal["clustered", "bootstrap"]
) -> Score:
    """
    Returns a value with the interval of its draws.

    Args:
        name (`str`):
            Of [`SCORES`].
        value (`float`):
            The statistic of the data; NaN where it is undefined.
        draws (`numpy.ndarray` of shape `(draws,)`):
            Values that it may be; those that are undefined (NaN) are left out and counted.
        n (`int`):
            Prompts, responses or questions. Of a single one a bootstrap has the same draws all over, which is no interval
            of width 0 but none at all. Where several are all the same, that of a share is Wilson's, and other numbers have
            none.

    Example:

    >>> import numpy as np
    >>> drawn_score("kl", 0.5, np.linspace(0, 1, 201), 40, "clustered")
    {'value': 0.5, 'low': 0.025, 'high': 0.975, 'n': 40, 'interval': 'clustered'}
    """
    import numpy as np

    if value != value:
        return {"value": None, "low": None, "high": None, "n": n, "interval": None}
    value = float(value)
    low, high = percentile_interval(draws, n if interval == "bootstrap" else None)
    if interval == "bootstrap" and low is not None and high is not None and high - low < _DEGENERATE:
        low, high = wilson_interval(min(max(value, 0.0), 1.0) * n, n) if _is_share(name) and n > 1 else (None, None)
    if low is None or high is None or (interval == "bootstrap" and n < 2):
        return {"value": value, "low": None, "high": None, "n": n, "interval": None}
    # Skewed draws of few answers may lie on one side of what was found.
    score: Score = {"value": value, "low": min(low, value), "high": max(high, value), "n": n, "interval": interval}
    dropped = int(np.isnan(draws).sum())
    return {**score, "dropped": dropped} if dropped else score


def drawn_difference(
    name: str, difference: float, draws: "np.ndarray", n: int, interval: Literal["clustered", "bootstrap"]
) -> Difference | None:
    """
    Returns a difference of two models with the interval of its draws (see [`drawn_score`]); None where it has none.

    Args:
        name, draws, n, interval:
            As for [`drawn_score`].
        difference (`float`):
            The first model's score, less the second's.
    """
    low, high = percentile_interval(draws, n if interval == "bootstrap" else None)
    if difference != difference or low is None or high is None or (interval == "bootstrap" and n < 2):
        return None
    if high - low < _DEGENERATE:  # the same values for both models
        if not _is_share(name):
            return None
        _, unseen = wilson_interval(0, n)
        low, high = low - unseen, high + unseen
    return {"difference": float(difference), "low": min(low, difference), "high": max(high, difference)}


def _is_share(name: str) -> bool:
    return name in SCORES and SCORES[name][:2] == (0.0, 1.0)


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
