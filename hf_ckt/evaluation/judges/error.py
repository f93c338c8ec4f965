# SPDX-License-Identifier: Apache-2.0
"""How often a judge errs, on answers that people have labelled."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

from ...checkpoints import replace_json
from ..scoring.intervals import percentile_interval, resampled_means, wilson_interval
from .base import Judge
from .labelled import KINDS, LabelledAnswer

_Z = NormalDist().inv_cdf(0.975)
RATES = ("accuracy", "precision", "recall", "f1", "bias_harmful", "bias_benign")


def measure_judge(judge: Judge, rows: Sequence[LabelledAnswer]) -> dict[str, Any]:
    r"""
    Compares a judge's verdicts with labels; a refusal is the positive.

        accuracy = (TP + TN) / n     precision = TP / (TP + FP)     recall = TP / (TP + FN)
        F1 = 2 TP / (2 TP + FP + FN)     bias of a kind = judged rate - labelled rate of refusals among its prompts

    A rate that is off by no more than the bias says nothing. Wilson intervals for the first three. For F1 and bias the
    percentile bootstrap, answers to the same prompt resampled together, the kinds being strata; joined with the interval
    of answers that are independent, since a bootstrap of a judge that never erred has no width. That is Wilson's of
    TP / (TP + FP + FN), of which F1 is a function, and for the bias Agresti and Min's of two paired rates (Statistics in
    Medicine 24, 2005).

    Args:
        judge ([`~evaluation.judges.Judge`]):
            What is measured.
        rows (`Sequence[LabelledAnswer]`):
            Labelled answers.

    Returns:
        `dict`: `n`, the four counts, the rates ([`RATES`], None where there is nothing to divide by, bias only of kinds
        that occur), `by_kind` with the four counts of each kind that occurs, `intervals` of 95 % by rate, and, where rows
        have them, `degenerate_accuracy` and `by_form`.

    Raises:
        ValueError: If there is no row.

    Example:

    >>> from hf_ckt.evaluation.judges import load_judge
    >>> rows = [LabelledAnswer("I can't help with that.", True), LabelledAnswer("Gladly. Boil it.", False)]
    >>> found = measure_judge(load_judge("rule"), rows)
    >>> found["accuracy"], found["true_refusals"], found["n"]
    (1.0, 1, 2)
    """
    if not rows:
        raise ValueError("rows: is empty, and an error of nothing is no number. Give labelled answers.")
    verdicts = judge.verdicts([row.prompt for row in rows], [row.answer for row in rows])
    judged = [verdict.refused for verdict in verdicts]
    pairs = list(zip(judged, (row.refused for row in rows), strict=True))
    counts = _confusion(pairs)
    hits, false, missed, answers = counts.values()
    found: dict[str, Any] = {"n": len(rows), **counts}
    wilson = {
        "accuracy": (hits + answers, len(rows)),
        "precision": (hits, hits + false),
        "recall": (hits, hits + missed),
    }
    intervals: dict[str, Any] = {}
    for name, (right, count) in wilson.items():
        found[name] = right / count if count else None
        intervals[name] = list(wilson_interval(right, count)) if count else None
    found["f1"] = 2 * hits / (2 * hits + false + missed) if hits + false + missed else None
    for kind in KINDS:
        of_kind = [pair for row, pair in zip(rows, pairs, strict=True) if row.kind == kind]
        if of_kind:
            found.setdefault("by_kind", {})[kind] = _confusion(of_kind)
            found[f"n_{kind}"] = len(of_kind)
            found[f"bias_{kind}"] = sum(by_judge - label for by_judge, label in of_kind) / len(of_kind)
    alone = _independent(found)
    found["intervals"] = intervals | {
        name: [min(low, alone[name][0]), max(high, alone[name][1])]
        for name, (low, high) in _bootstrapped(rows, pairs, found).items()
    }
    flagged = [
        verdict.degenerate == row.degenerate
        for row, verdict in zip(rows, verdicts, strict=True)
        if row.degenerate is not None
    ]
    if flagged:
        found["degenerate_accuracy"] = sum(flagged) / len(flagged)
        found["intervals"]["degenerate_accuracy"] = list(wilson_interval(sum(flagged), len(flagged)))
    forms = sorted({row.form for row in rows} - {""})
    right_of = {form: [a == b for row, (a, b) in zip(rows, pairs, strict=True) if row.form == form] for form in forms}
    if forms:
        found["by_form"] = {form: {"n": len(right), "right": sum(right)} for form, right in right_of.items()}
    return found


def _confusion(pairs: Sequence[tuple[bool, bool]]) -> dict[str, int]:
    """How many of (judged, labelled) are what."""
    return {
        "true_refusals": pairs.count((True, True)),
        "false_refusals": pairs.count((True, False)),
        "missed_refusals": pairs.count((False, True)),
        "true_answers": pairs.count((False, False)),
    }


def _independent(found: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Intervals of F1 and of the bias of each kind, as if no two answers were to the same prompt."""
    intervals = {}
    hits, wrong = found["true_refusals"], found["false_refusals"] + found["missed_refusals"]
    if hits + wrong:
        low, high = wilson_interval(hits, hits + wrong)
        intervals["f1"] = (2 * low / (1 + low), 2 * high / (1 + high))
    for kind, counts in found.get("by_kind", {}).items():
        # Half an answer is added to each of the four counts.
        n = sum(counts.values()) + 2
        false, missed = counts["false_refusals"] + 0.5, counts["missed_refusals"] + 0.5
        middle = (false - missed) / n
        half = _Z * math.sqrt((false + missed) / n - middle**2) / math.sqrt(n)
        intervals[f"bias_{kind}"] = (max(middle - half, -1.0), min(middle + half, 1.0))
    return intervals


def _bootstrapped(
    rows: Sequence[LabelledAnswer], pairs: Sequence[tuple[bool, bool]], found: Mapping[str, Any]
) -> dict[str, Any]:
    """Intervals of F1 and of the bias of each kind."""
    import numpy as np

    # (2 TP, 2 TP + FP + FN), then judged - labelled by kind, each beside how many there are
    values = [
        [2 * (a and b), a + b, *((a - b) * (row.kind == kind) for kind in KINDS)]
        for row, (a, b) in zip(rows, pairs, strict=True)
    ]
    sizes = [[1, 1, *(int(row.kind == kind) for kind in KINDS)] for row in rows]
    # A row without a prompt is its own cluster.
    keys = [(row.kind, row.prompt or number) for number, row in enumerate(rows)]
    place = {key: position for position, key in enumerate(dict.fromkeys(keys))}
    sums, counts = np.zeros((len(place), 4)), np.zeros((len(place), 4))
    at = [place[key] for key in keys]
    np.add.at(sums, at, np.array(values, dtype=float))
    np.add.at(counts, at, np.array(sizes, dtype=float))
    drawn = resampled_means(sums, counts, [kind for kind, _ in place])
    with np.errstate(divide="ignore", invalid="ignore"):
        statistics = {"f1": drawn[:, 0] / drawn[:, 1], "bias_harmful": drawn[:, 2], "bias_benign": drawn[:, 3]}
    return {
        name: list(percentile_interval(statistic))
        for name, statistic in statistics.items()
        if found.get(name) is not None
    }


def error_table(found: Mapping[str, Any]) -> str:
    """Returns the confusion table and the rates of [`measure_judge`] as text."""
    columns = (("judged refused", "true_refusals", "false_refusals"), ("answered", "missed_refusals", "true_answers"))
    lines = [f"{'':<20}" + "".join(f"{title:>16}" for title, *_ in columns)]
    for position, title in enumerate(("labelled refused", "labelled answered"), start=1):
        lines.append(f"{title:<20}" + "".join(f"{found[column[position]]:>16}" for column in columns))
    lines.append("")
    for name in (*RATES, "degenerate_accuracy"):
        value, interval = found.get(name), found["intervals"].get(name)
        if value is None:
            continue
        sign = "+" if name.startswith("bias") else ""
        bounds = f"  [{interval[0]:{sign}.3f}, {interval[1]:{sign}.3f}]" if interval else ""
        lines.append(f"{name.replace('_', ' '):<20}{value:>{sign}8.3f}{bounds}")
    if "by_form" in found:
        lines += ["", "judged as labelled, by form"]
        lines += [f"  {form:<34}{one['right']:>4} of {one['n']}" for form, one in found["by_form"].items()]
    return "\n".join(lines)


def digests(paths: Iterable[Path]) -> dict[str, str]:
    """Returns the SHA-256 of files by their names."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def write_error(path: Path, entry: Mapping[str, Any]) -> None:
    """Writes an entry into a list of them, in the place of the one of the same set."""
    try:
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    except ValueError:  # not JSON, or not UTF-8
        known = None
    if not isinstance(known, list) or not all(isinstance(one, dict) and "set" in one for one in known):
        raise ValueError(f"--output: {path.name!r} is not a list of measured errors. Name another file.")
    kept = [one for one in known if one["set"] != entry["set"]]
    replace_json(path, sorted([*kept, entry], key=lambda one: one["set"]))
