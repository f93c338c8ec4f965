# SPDX-License-Identifier: Apache-2.0
"""
Keeps what a study has found, and writes the tables and pictures of RESULTS.md from what is kept.

    python examples/studies/page.py --keep out/studies/main     # to results/main.json, then the page
    python examples/studies/page.py                             # the page alone
"""

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from hf_ckt.checkpoints import replace_block, replace_file, replace_json
from hf_ckt.evaluation.report.numbers import score_text, with_interval
from hf_ckt.evaluation.report.tables import table

HERE = Path(__file__).parent
RESULTS, PAGE = HERE / "results", HERE / "RESULTS.md"
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
OF_EVALUATION = ("command", "tier", "generation", "judge", "sets", "versions", "device", "settings")


def keep(folder: Path, destination: Path) -> None:
    """
    Writes what is worth keeping of a study's folder into one file: each cell, and of the evaluation the scores by method, seeds
    pooled, with their differences.
    """
    study = _read(folder / "results.json")
    found = _read(folder / study["evaluation"])
    scored = found["models"] | (found.get("pooled") or {})
    # A method of one seed is a cell of its own.
    names = {group: group if group in scored else runs[0] for group, runs in study["groups"].items()}
    methods = {}
    for group, name in {BASE: BASE, **names}.items():
        against = scored[name].get("against", {})
        methods[group] = {
            "scores": scored[name]["scores"],
            "against": {other: against[one] for other, one in {BASE: BASE, **names}.items() if one in against},
        }
    kept = {
        "study": study["study"],
        "cells": study["cells"],
        "groups": study["groups"],
        "methods": methods,
        **{name: found[name] for name in OF_EVALUATION if name in found},
    }
    replace_json(destination, kept)


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
    """What the trainings of each method took, the mean over seeds."""
    rows: list[Sequence[Any]] = [
        [
            "method",
            "minutes",
            "peak memory, GiB",
            "tokens",
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
                _mean([norm["largest"] / norm["median"] for norm in norms if norm["median"]], 1),
                sum(norm["not_finite"] for norm in norms),
            ]
        )
    return table(rows)


def chosen(kept: Mapping[str, Any], name: str) -> dict[str, Any]:
    """By method, the value of a field of the grid with the highest mean of J and AUROC; the first of several."""
    return {method: max(reached, key=reached.__getitem__) for method, reached in _reached(kept, name).items()}


def choice_table(kept: Mapping[str, Any]) -> str:
    """Each method's mean of J and AUROC by value of the grid's one field, the chosen one marked."""
    ((name, values),) = kept["study"]["grid"].items()
    best = chosen(kept, name)
    rows: list[Sequence[Any]] = [["method", *(f"{name} {value}" for value in values)]]
    for method, reached in _reached(kept, name).items():
        rows.append([method, *(f"{reached[value]:.3f}" + ", chosen" * (value == best[method]) for value in values)])
    return table(rows)


def _reached(kept: Mapping[str, Any], name: str) -> dict[str, dict[Any, float]]:
    """By method and value of a field of the grid, the mean of J and AUROC."""
    found: dict[str, dict[Any, float]] = {}
    for group, runs in kept["groups"].items():
        cell, scores = kept["cells"][runs[0]], kept["methods"][group]["scores"]
        reached = fmean(scores[score]["value"] for score in CHOSEN_BY)
        found.setdefault(cell["method"], {})[cell["settings"][name]] = reached
    return found


def draw(kept: Mapping[str, Any], file: Path) -> None:
    """Each method's J, clean and under noise, with intervals, one below the other."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    methods = kept["methods"]
    views = [
        score
        for score in ("youden_j", "youden_j_noise")
        if all(one["scores"].get(score, {}).get("value") is not None for one in methods.values())
    ]
    figure, axis = plt.subplots(figsize=(8, 1.2 + 0.35 * len(methods)), layout="constrained")
    for score, color, shift in zip(views, ("#2a6f97", "#d1495b"), (0.12, -0.12), strict=False):
        found = [one["scores"][score] for one in methods.values()]
        heights = [len(methods) - place + shift for place in range(len(methods))]
        values = [one["value"] for one in found]
        spread = [[one["value"] - one["low"] for one in found], [one["high"] - one["value"] for one in found]]
        axis.errorbar(values, heights, xerr=spread, fmt="o", ms=4, lw=1, color=color, label=SHOWN[score])
    axis.set_yticks([len(methods) - place for place in range(len(methods))], [*methods], fontsize=8)
    axis.axvline(0, color="0.6", lw=0.8)
    axis.set_xlabel("J: harmful refused less benign refused")
    axis.grid(axis="x", alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=8)
    replace_file(file, lambda aside: figure.savefig(aside, dpi=110, format="png"))
    plt.close(figure)


def write_page(page: Path = PAGE, results: Path = RESULTS) -> list[str]:
    """Writes the blocks that the page has marks for, and the pictures; returns the blocks' names."""
    if not page.exists():
        raise ValueError(
            f"{page}: is missing, and tables have no place. Write it, with marks such as `<!-- main -->`."
        )
    text = page.read_text(encoding="utf-8")
    written = []
    for file in sorted(results.glob("*.json")):
        kept = _read(file)
        blocks = {file.stem: main_table(kept), f"{file.stem} costs": cost_table(kept)}
        if len(kept["study"]["grid"]) == 1:
            blocks[f"{file.stem} choice"] = choice_table(kept)
        for method in kept["methods"]:
            blocks[f"{file.stem} {method} minus"] = difference_table(kept, method)
        for name, block in blocks.items():
            if f"<!-- {name} -->" in text:
                replace_block(page, name, block)
                written.append(name)
        draw(kept, file.with_suffix(".png"))
    marks = set(re.findall(r"<!-- ([^/].*?) -->", text))
    if marks - {*written}:
        raise ValueError(
            f"{page.name}: nothing is kept for {', '.join(sorted(marks - {*written}))}. Run that study first."
        )
    return written


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


def _read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, nargs="+", default=[], metavar="FOLDER", help="of `hf-ckt study`")
    for folder in parser.parse_args().keep:
        keep(folder, RESULTS / f"{folder.name}.json")
    for name in write_page():
        print(name)


if __name__ == "__main__":
    main()
