# SPDX-License-Identifier: Apache-2.0
"""The tables of what a study has found, from what `page.py` keeps of it."""

from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any

from hf_ckt.evaluation.report.numbers import number, score_text, with_interval
from hf_ckt.evaluation.report.tables import table

BASE = "base"
# Score -> heading, in the order of the tables; one that a study did not ask for has no column.
SHOWN = {
    "kd_alignment": "KD alignment",
    "youden_j": "J",
    "youden_j_noise": "J, noise",
    "refusal_auroc": "AUROC",
    "refusal_auroc_noise": "AUROC, noise",
    "attack_success_direct": "attack success",
    "overrefusal": "over-refusal",
    "multiple_choice_over_chance": "choices, points",
    "plain_text_nats": "plain text, nats",
}
COMPARED = ("kd_alignment", "youden_j", "youden_j_noise", "refusal_auroc", "multiple_choice_over_chance")
CHOSEN_BY = ("youden_j", "refusal_auroc")


def main_table(kept: Mapping[str, Any]) -> str:
    """All methods by all scores, with their intervals."""
    methods = kept["methods"]
    asked = [score for score in SHOWN if any(score in one["scores"] for one in methods.values())]
    rows: list[Sequence[Any]] = [["method", *(SHOWN[score] for score in asked), "seeds"]]
    for name, one in methods.items():
        seeds = len(kept["groups"].get(name, ())) or ""
        rows.append([name, *(_scored(one["scores"], score) for score in asked), seeds])
    return table(rows)


def difference_table(kept: Mapping[str, Any], method: str) -> str:
    """A method minus each other one: the difference of each compared score, paired by prompt, with its interval."""
    methods = kept["methods"]
    asked = [score for score in COMPARED if score in methods[method]["scores"]]
    rows: list[Sequence[Any]] = [[f"{method} minus", *(SHOWN[score] for score in asked)]]
    for name in methods:
        if name != method:
            rows.append([name, *(_difference(methods, method, name, score) for score in asked)])
    return table(rows)


def cost_table(kept: Mapping[str, Any]) -> str:
    """What the trainings of each method took, the mean over seeds; tokens a second of the whole command, loading too."""
    rows: list[Sequence[Any]] = [
        [
            "method",
            "minutes",
            "peak memory, GiB",
            "tokens",
            "tokens a second",
            "largest gradient norm over the median",
            "steps not finite",
        ]
    ]
    for name, runs in kept["groups"].items():
        cells = [kept["cells"][run] for run in runs]
        norms = [cell["gradients"] for cell in cells if cell.get("gradients")]
        rows.append(
            [
                name,
                _mean([cell["seconds"] / 60 for cell in cells], 1),
                _mean([cell["peak_memory"] / 2**30 for cell in cells if cell["peak_memory"]], 1),
                _mean([cell["tokens"] for cell in cells if cell["tokens"]], 0),
                _mean([cell["tokens"] / cell["seconds"] for cell in cells if cell["tokens"]], 0),
                _mean([norm["largest"] / norm["median"] for norm in norms if norm["median"]], 1),
                sum(norm["not_finite"] for norm in norms),
            ]
        )
    return table(rows)


def chosen(kept: Mapping[str, Any], name: str) -> dict[str, Any]:
    """By method, the value of a field of the grid with the highest mean of J and AUROC; the first of several."""
    return {method: max(found, key=found.__getitem__) for method, found in _reached_by_value(kept, name).items()}


def power_table(kept: Mapping[str, Any]) -> str:
    """
    Which difference the sets could have shown: half the width of the 95 % intervals of the differences between methods, that of
    the pair in the middle and the widest. A true difference of so much is found in about half of all repetitions of the study,
    one of 1.4 times as much in four of five.
    """
    methods = {name: kept["methods"][name] for name in kept["groups"]}
    rows: list[Sequence[Any]] = [["score", "pairs", "half an interval", "widest"]]
    for score in COMPARED:
        found = [
            other[score]
            for one in methods.values()
            for name, other in one["against"].items()
            if name in methods and score in other
        ]
        halves = [(one["high"] - one["low"]) / 2 for one in found if one.get("low") is not None]
        if halves:
            decimals = score_text(score).decimals
            rows.append([SHOWN[score], len(halves), number(median(halves), decimals), number(max(halves), decimals)])
    return table(rows)


def choice_table(kept: Mapping[str, Any]) -> str:
    """Each method's mean of J and AUROC by value of the grid's one field, the chosen one marked."""
    ((name, values),) = kept["study"]["grid"].items()
    best = chosen(kept, name)
    rows: list[Sequence[Any]] = [["method", *(f"{name} {value}" for value in values)]]
    for method, found in _reached_by_value(kept, name).items():
        rows.append([method, *(f"{found[value]:.3f}" + ", chosen" * (value == best[method]) for value in values)])
    return table(rows)


def reached(kept: Mapping[str, Any], group: str) -> float:
    """The mean of J and AUROC of a method with its settings."""
    scores = kept["methods"][group]["scores"]
    return fmean(scores[score]["value"] for score in CHOSEN_BY)


def by_value(kept: Mapping[str, Any], name: str) -> dict[str, dict[Any, str]]:
    """By method and value of a field of the grid, the group of runs."""
    found: dict[str, dict[Any, str]] = {}
    for group, runs in kept["groups"].items():
        cell = kept["cells"][runs[0]]
        found.setdefault(cell["method"], {})[cell["settings"][name]] = group
    return found


def _reached_by_value(kept: Mapping[str, Any], name: str) -> dict[str, dict[Any, float]]:
    return {
        method: {value: reached(kept, group) for value, group in groups.items()}
        for method, groups in by_value(kept, name).items()
    }


def _scored(scores: Mapping[str, Any], name: str) -> str:
    score, decimals = scores.get(name), score_text(name).decimals
    if score is None or score["value"] is None:
        return ""
    return with_interval(score, decimals)


def _difference(methods: Mapping[str, Any], method: str, other: str, score: str) -> str:
    """Each pair is kept once, under the later of the two."""
    decimals, against = score_text(score).decimals, methods[method]["against"].get(other, {})
    found = against.get(score)
    if found is None:
        turned = methods[other]["against"].get(method, {}).get(score)
        if turned is None:
            return ""
        found = {"difference": -turned["difference"], "low": -turned["high"], "high": -turned["low"]}
    return with_interval(found, decimals)


def _mean(values: Sequence[float], decimals: int) -> str:
    return f"{fmean(values):,.{decimals}f}" if values else ""
