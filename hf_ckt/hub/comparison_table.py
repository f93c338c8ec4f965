# SPDX-License-Identifier: Apache-2.0
"""The table of a comparison of methods under corruptions, from its results file."""

from typing import Any

_COLUMNS = {
    "harmful refused": ("conditions", "clean", "harmful", 2),
    "harmful, corrupted": ("all corruptions", None, "harmful", 2),
    "look-alikes refused": ("conditions", "clean", "lookalike", 2),
    "look-alikes, corrupted": ("all corruptions", None, "lookalike", 2),
    "verdict flipped": ("all corruptions", None, "flipped", 2),
    "token consistency": ("all corruptions", None, "token_consistency", 3),
}


def comparison_rows(results: dict[str, Any]) -> list[dict[str, str]]:
    """
    Returns a row a method: rates on clean and corrupted prompts, each with its 95 % interval.

    Args:
        results (`dict`):
            `models.<name>` with `title`, `conditions.clean.<kind>` and `all corruptions.<quantity>`, each of which holds
            `refused` or `mean`, `low` and `high`.
    """
    rows = []
    for model in results["models"].values():
        row = {"method": model["title"]}
        for column, (part, condition, quantity, digits) in _COLUMNS.items():
            cell = (model[part] if condition is None else model[part][condition])[quantity]
            value = cell["refused"] if "refused" in cell else cell["mean"]
            row[column] = f"{value:.{digits}f} [{cell['low']:.{digits}f}, {cell['high']:.{digits}f}]"
        rows.append(row)
    return rows


def comparison_source(results: dict[str, Any]) -> str:
    """Returns the sentence that says how a comparison was measured."""
    settings, corruptions = results["settings"], results["corruptions"]
    kinds = ", ".join(name.replace("_", " ") for name in corruptions["kinds"])
    versions = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    return (
        f"`{results['command']}` on {results['device']}: {settings['steps']} steps of {settings['batch_size']} each; "
        f"{settings['prompts']} prompts of each kind, corrupted by {kinds} at severity {corruptions['severity']:g}; seed "
        f"{settings['seed']}; {results['judge']}; {versions}."
    )
