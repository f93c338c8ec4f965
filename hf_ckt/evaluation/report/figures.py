# SPDX-License-Identifier: Apache-2.0
"""What each figure shows, drawn as files by `plots.py` and in the page by its template."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from .numbers import SCORES, score_text

# Scores that have a panel each, and the range of its axis.
PANELS = {"oss": (0.0, 100.0), "kd_alignment": (0.0, 1.0), "noise_robustness": (0.0, 1.0)}
BALANCE = ("overrefusal", "attack_success_direct")  # x and y of the scatter


class NoiseGrid(NamedTuple):
    """Cells of one model under noise, by corruption and severity, in the order of the results."""

    corruptions: list[str]
    severities: list[float]
    cells: dict[tuple[str, float], Mapping[str, Any]]


def titles(results: Mapping[str, Any]) -> dict[str, str]:
    """Returns the models' titles by name, in the order that gives each its colour and its marker."""
    return {name: str(model["title"]) for name, model in results["models"].items()}


def measured_panels(results: Mapping[str, Any]) -> list[str]:
    """Returns the headline scores that at least one model has."""
    return [name for name in PANELS if any(name in model["scores"] for model in results["models"].values())]


def missing_panels(results: Mapping[str, Any]) -> list[str]:
    """Returns the part of the report (`findings.PARTS`) of each headline score that no model has."""
    parts = {"oss": "safety", "kd_alignment": "kd", "noise_robustness": "noise"}
    return [parts[name] for name in PANELS if name not in measured_panels(results)]


def category_rows(results: Mapping[str, Any], rate: str) -> list[tuple[str, dict[str, Mapping[str, Any]]]]:
    """
    Returns the categories of a rate, each with the score of every model that has it.

    Args:
        results (`Mapping`):
            A results file.
        rate (`str`):
            `"attack_success"` or `"overrefusal"`.

    Example:

    >>> half = {"value": 0.5, "low": 0.1, "high": 0.9, "n": 2}
    >>> category_rows({"models": {"base": {"by_category": {"overrefusal": {"home": half}}}}}, "overrefusal")
    [('home', {'base': {'value': 0.5, 'low': 0.1, 'high': 0.9, 'n': 2}})]
    """
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    for name, model in results["models"].items():
        for category, score in model.get("by_category", {}).get(rate, {}).items():
            found.setdefault(category, {})[name] = score
    return sorted(found.items())


def balance_points(results: Mapping[str, Any]) -> dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Returns over-refusal and attack success of the models that have both."""
    points = {}
    for name, model in results["models"].items():
        x, y = (model["scores"].get(score) for score in BALANCE)
        if x and y and x["value"] is not None and y["value"] is not None:
            points[name] = (x, y)
    return points


def noise_grids(results: Mapping[str, Any]) -> dict[str, NoiseGrid]:
    """Returns the noise cells of each model that has any."""
    grids = {}
    for name, model in results["models"].items():
        if cells := model.get("noise"):
            grids[name] = NoiseGrid(
                list(dict.fromkeys(cell["corruption"] for cell in cells)),
                sorted({cell["severity"] for cell in cells}),
                {(cell["corruption"], cell["severity"]): cell for cell in cells},
            )
    return grids


def severity_lines(
    results: Mapping[str, Any],
) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Returns for each corruption the (severity, OSS) of each model; empty with fewer than two severities: no curve."""
    lines: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for name, grid in noise_grids(results).items():
        for corruption in grid.corruptions if len(grid.severities) > 1 else ():
            for severity in grid.severities:
                cell = grid.cells.get((corruption, severity))
                if cell is not None and cell["oss"] is not None:
                    lines.setdefault(corruption, {}).setdefault(name, []).append((severity, cell["oss"]))
    return lines


def calibration_bins(results: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """Returns the calibration of each model that has one, its bins in ascending order."""
    return {
        name: sorted(model["calibration"], key=lambda one: one["low"])
        for name, model in results["models"].items()
        if model.get("calibration")
    }


def score_groups(results: Mapping[str, Any]) -> dict[str, list[str]]:
    """Returns the scores that some model has under their headings; the last heading has those that are not listed."""
    there = {name: None for model in results["models"].values() for name in model["scores"]}
    order = [name for name in SCORES if name in there] + [name for name in there if name not in SCORES]
    groups: dict[str, list[str]] = {}
    for name in order:
        groups.setdefault(score_text(name).group, []).append(name)
    return groups
