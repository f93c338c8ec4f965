# SPDX-License-Identifier: Apache-2.0
"""What each figure shows, drawn as files by `plots.py` and in the page by its template."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from .numbers import SCORES, score_text

# Scores that have a panel each, and the range of its axis.
PANELS = {
    "youden_j": (-1.0, 1.0),
    "refusal_auroc": (0.0, 1.0),
    "youden_j_noise": (-1.0, 1.0),
    "kd_alignment": (0.0, 1.0),
}
# Part of the report (`findings.PARTS`) that each panel is of.
_PANEL_PARTS = {"youden_j": "safety", "refusal_auroc": "odds", "youden_j_noise": "noise", "kd_alignment": "kd"}
BALANCE = ("helpfulness", "safety")  # x and y of the curve


class NoiseGrid(NamedTuple):
    """Cells of one model under noise, by corruption and severity, in the order of the results; `clean`: without noise."""

    corruptions: list[str]
    severities: list[float]
    cells: dict[tuple[str, float], Mapping[str, Any]]
    clean: Mapping[str, Any] | None


class Balance(NamedTuple):
    """A model's helpfulness and safety: along the shifts of its decision token, and where its own answers are."""

    curve: list[tuple[float, float]]
    point: tuple[Mapping[str, Any], Mapping[str, Any]] | None


def titles(results: Mapping[str, Any]) -> dict[str, str]:
    """Returns the models' titles by name, in the order that gives each its colour and its marker."""
    return {name: str(model["title"]) for name, model in results["models"].items()}


def measured_panels(results: Mapping[str, Any]) -> list[str]:
    """Returns the headline scores that at least one model has."""
    return [name for name in PANELS if _is_measured(results, name)]


def missing_panels(results: Mapping[str, Any]) -> list[str]:
    """
    Returns the part of the report (`findings.PARTS`) of each headline score that no model has. Where agreement with the
    base was measured in place of that with a teacher, nothing is missing.
    """
    missing = [name for name in PANELS if not _is_measured(results, name)]
    if _is_measured(results, "base_agreement") and "kd_alignment" in missing:
        missing.remove("kd_alignment")
    return [_PANEL_PARTS[name] for name in missing]


def _is_measured(results: Mapping[str, Any], score: str) -> bool:
    return any(score in model["scores"] for model in results["models"].values())


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
        for category, score in (model.get("by_category") or {}).get(rate, {}).items():
            found.setdefault(category, {})[name] = score
    return sorted(found.items())


def balances(results: Mapping[str, Any]) -> dict[str, Balance]:
    """Returns safety against helpfulness of each model that has a curve or both scores."""
    found = {}
    for name, model in results["models"].items():
        curve = [
            (one["helpfulness"], one["safety"])
            for one in model.get("curve") or ()
            if one.get("helpfulness") is not None and one.get("safety") is not None
        ]
        x, y = (model["scores"].get(score) for score in BALANCE)
        has_point = x and y and x["value"] is not None and y["value"] is not None
        if curve or has_point:
            found[name] = Balance(curve, (x, y) if has_point else None)
    return found


def noise_grids(results: Mapping[str, Any]) -> dict[str, NoiseGrid]:
    """Returns the noise cells of each model that has any."""
    grids = {}
    for name, model in results["models"].items():
        if noisy := [cell for cell in model.get("noise") or () if cell["corruption"]]:
            grids[name] = NoiseGrid(
                list(dict.fromkeys(cell["corruption"] for cell in noisy)),
                sorted({cell["severity"] for cell in noisy}),
                {(cell["corruption"], cell["severity"]): cell for cell in noisy},
                next((cell for cell in model["noise"] if not cell["corruption"]), None),
            )
    return grids


def severity_lines(
    results: Mapping[str, Any],
) -> dict[str, dict[str, list[tuple[float, Mapping[str, Any]]]]]:
    """
    Returns for each corruption the (severity, Youden's J) of each model, from severity 0, which is no noise; empty where
    no line has two points: no curve.
    """
    lines: dict[str, dict[str, list[tuple[float, Mapping[str, Any]]]]] = {}
    for name, grid in noise_grids(results).items():
        for corruption in grid.corruptions:
            cells = [(severity, grid.cells.get((corruption, severity))) for severity in grid.severities]
            points = [(severity, youden_j(cell)) for severity, cell in [(0.0, grid.clean), *cells]]
            lines.setdefault(corruption, {})[name] = [(severity, j) for severity, j in points if j is not None]
    has_line = any(len(points) > 1 for models in lines.values() for points in models.values())
    return {corruption: models for corruption, models in lines.items() if any(models.values())} if has_line else {}


def severity_bounds(lines: Mapping[str, Mapping[str, list[tuple[float, Mapping[str, Any]]]]]) -> tuple[float, float]:
    """Returns the range of the axis of [`severity_lines`]: as little below 0 as its intervals need."""
    found = [j for models in lines.values() for points in models.values() for _, j in points]
    lowest = min(j["value"] if j["low"] is None else j["low"] for j in found)
    return (0.0 if lowest >= 0 else -0.5 if lowest >= -0.5 else -1.0), 1.0


def youden_j(cell: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Returns Youden's J of a cell under noise; None where it was not measured or is not defined."""
    found = (cell or {}).get("youden_j")
    return None if not found or found["value"] is None else found


def calibration_bins(results: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """Returns the calibration of each model that has one, its bins in ascending order."""
    return {
        name: sorted(model["calibration"], key=lambda one: one["low"])
        for name, model in results["models"].items()
        if model.get("calibration")
    }


def score_groups(models: Mapping[str, Any]) -> dict[str, list[str]]:
    """Returns the scores that some model has under their headings; the last heading has those that are not listed."""
    there = {name: None for model in models.values() for name in model["scores"]}
    order = [name for name in SCORES if name in there] + [name for name in there if name not in SCORES]
    groups: dict[str, list[str]] = {}
    for name in order:
        groups.setdefault(score_text(name).group, []).append(name)
    return groups
