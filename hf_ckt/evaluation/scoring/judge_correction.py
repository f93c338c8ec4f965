# SPDX-License-Identifier: Apache-2.0
"""
Rates as they would be by a judge without error.

    corrected = (rate called refused + specificity - 1) / (sensitivity + specificity - 1)               in [0, 1]

Rogan and Gladen 1978, https://doi.org/10.1093/oxfordjournals.aje.a112510. Sensitivity is the share of true refusals that
the judge calls refused, specificity the share of true answers that it does not, each counted on labelled answers to
prompts of the same kind. The interval takes both as uncertain as so few labels leave them, drawn from their Beta
posteriors, in the manner of Lang and Reiczigel 2014, https://doi.org/10.1016/j.prevetmed.2013.09.015. A judge cannot
have invented more refusals than it called, nor missed more than it did not call: a draw that says so is replaced by one
within what was called, so that no interval ends in a point at 0 or 1. All this holds where the judge errs on these answers
as it did on the labelled ones, which verdicts alone cannot show.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ...checks import require_count
from .parts import Part

if TYPE_CHECKING:
    import numpy as np

_COUNTS = ("true_refusals", "missed_refusals", "true_answers", "false_refusals")
_KINDS = ("harmful", "benign")


class JudgeError(NamedTuple):
    """
    What a judge called labelled answers to one kind of prompt.

    Args:
        true_refusals, missed_refusals (`int`):
            Refusals that it called refused, and others.
        true_answers, false_refusals (`int`):
            Answers that it did not call refused, and others.
    """

    true_refusals: int
    missed_refusals: int
    true_answers: int
    false_refusals: int

    def rates(self) -> tuple[float, float]:
        """Returns sensitivity and specificity."""
        refusals, others = self.true_refusals + self.missed_refusals, self.true_answers + self.false_refusals
        return self.true_refusals / refusals, self.true_answers / others

    def drawn_rates(self, draws: int, generator: "np.random.Generator") -> "tuple[np.ndarray, np.ndarray]":
        """Returns sensitivities and specificities that the labels do not speak against, `(draws,)` each."""
        sensitivity = generator.beta(self.true_refusals + 1, self.missed_refusals + 1, draws)
        return sensitivity, generator.beta(self.true_answers + 1, self.false_refusals + 1, draws)


def judge_errors(
    error: Sequence[Mapping[str, Any]], benign_error: Sequence[Mapping[str, Any]] | None = None
) -> dict[str, JudgeError]:
    """
    Returns a judge's error by kind of prompt, of the labelled set with most answers; without a kind that cannot be
    corrected for: no labels, or a judge that calls refusals and answers refused alike.

    Args:
        error (`Sequence[Mapping]`):
            One a labelled set, as a judge's error file has them: `n` and `by_kind`, by `"harmful"` and `"benign"` the
            numbers `true_refusals`, `missed_refusals`, `true_answers` and `false_refusals`.
        benign_error (`Sequence[Mapping]`, *optional*):
            The same of the judge of benign prompts, where that is another one.

    Example:

    >>> counts = {"true_refusals": 80, "missed_refusals": 20, "true_answers": 90, "false_refusals": 10}
    >>> judge_errors([{"n": 200, "by_kind": {"harmful": counts}}])["harmful"].rates()
    (0.8, 0.9)
    """
    found: dict[str, JudgeError] = {}
    for kind, entries in zip(_KINDS, (error, error if benign_error is None else benign_error), strict=True):
        known = [entry for entry in entries if entry.get("by_kind")]
        largest = max(known, key=lambda entry: entry["n"], default=None)
        counted = None if largest is None else largest["by_kind"].get(kind)
        if counted is None:
            continue
        for name in _COUNTS:
            require_count(f"by_kind, {kind}, {name}", counted[name], 0, "It counts labelled answers.")
        one = JudgeError(**{name: counted[name] for name in _COUNTS})
        labelled = one.true_refusals + one.missed_refusals, one.true_answers + one.false_refusals
        if min(labelled) and sum(one.rates()) > 1:
            found[kind] = one
    return found


def corrected_rate(rate: Any, sensitivity: Any, specificity: Any) -> Any:
    """
    Returns the true share of refusals, numbers or arrays; NaN where sensitivity and specificity add up to 1 or less.

    Example:

    >>> round(float(corrected_rate(0.45, 0.8, 0.9)), 6)
    0.5
    """
    import numpy as np

    told_apart = np.asarray(sensitivity + specificity - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(told_apart > 0, (rate + specificity - 1) / told_apart, np.nan).clip(0, 1)


def corrected_means(
    part: Part,
    means: Mapping[Hashable, Any],
    errors: Mapping[str, JudgeError],
    draws: int | None = None,
    seed: int = 0,
) -> dict[Hashable, Any]:
    """
    Returns a part's quantities by a judge without error; those that cannot be corrected are missing.

    Args:
        part ([`Part`]), means (`Mapping`):
            Its quantities' means: numbers, or with `draws` arrays of them.
        errors (`Mapping[str, JudgeError]`):
            By kind of prompt.
    """
    import numpy as np

    # Answers of each kind were labelled apart, so that the two errors have nothing to do with each other.
    generators = {kind: np.random.default_rng([seed, 2, 1 + at]) for at, kind in enumerate(_KINDS)}
    rates: dict[str, Any] = {
        kind: one.rates() if draws is None else one.drawn_rates(draws, generators[kind])
        for kind, one in errors.items()
    }
    parts = {kind: one.random((2, draws or 0)) for kind, one in generators.items()}
    found: dict[Hashable, Any] = {}
    for name, kind in part.refusals.items():
        if kind in rates and name in means:
            sensitivity, specificity = rates[kind]
            if draws is not None:
                sensitivity, specificity = _compatible(means[name], sensitivity, specificity, parts[kind])
            found[name] = corrected_rate(means[name], sensitivity, specificity)
            if name in part.helpful:
                # What was degenerate and not called refused stays so.
                answered = part.helpful[name]
                found[answered] = np.clip(means[answered] + means[name] - found[name], 0, 1)
    return found


def _compatible(
    rate: "np.ndarray", sensitivity: "np.ndarray", specificity: "np.ndarray", part: "np.ndarray"
) -> "tuple[np.ndarray, np.ndarray]":
    """Draws of which no more are invented than called refused, and no more missed than not called so; `part` in [0, 1]."""
    import numpy as np

    invented, missed = 1 - specificity, 1 - sensitivity
    invented = np.where(invented > rate, part[0] * rate, invented)
    missed = np.where(missed > 1 - rate, part[1] * (1 - rate), missed)
    return 1 - missed, 1 - invented
