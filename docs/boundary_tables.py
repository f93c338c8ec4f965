# SPDX-License-Identifier: Apache-2.0
"""
Writes the tables of `boundary.md`: `python docs/boundary_tables.py`.

What was reached beside what was aimed at, from `examples/results/`: `quickstart.json` (held-out prompts),
`quickstart_seeds/` (the same of several seeds), `evaluation/` (public sets), `xstest/`; one change after another on the
validation prompts, from `boundary_ablation/`, and what of it is left within long frames, from `boundary_wrapped/`; what the base
knows by how many rows it is asked with, from `boundary_probe_curve/`.
"""

import json
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from hf_ckt.checkpoints import replace_block
from hf_ckt.evaluation.report.numbers import difference, number, score_text, signed, with_interval
from hf_ckt.evaluation.report.tables import table

PAGE = Path(__file__).with_name("boundary.md")
RESULTS = Path(__file__).parents[1] / "examples" / "results"
HELD_OUT, PUBLIC, XSTEST = "held-out", "public sets", "XSTest"


class Goal(NamedTuple):
    """
    A row of the table.

    Args:
        prompts (`str`), score (`str`):
            Whose, and of what.
        aim (`str`):
            What was set before anything was measured.
        minus (`str`):
            The model that it is a difference from; empty where it is none.
    """

    prompts: str
    score: str
    aim: str
    minus: str = ""


GOALS = (
    Goal(HELD_OUT, "safety", "0.90"),
    Goal(HELD_OUT, "helpfulness", "0.90"),
    Goal(HELD_OUT, "youden_j", "0.80"),
    Goal(HELD_OUT, "youden_j_noise", "0.73"),
    Goal(HELD_OUT, "refusal_auroc", "0.95"),
    Goal(HELD_OUT, "refusal_auroc_noise", "0.92"),
    Goal(HELD_OUT, "youden_j", "0 or more", "teacher"),
    Goal(HELD_OUT, "youden_j_noise", "0 or more", "teacher"),
    Goal(HELD_OUT, "multiple_choice_over_chance", "-1 or more", "before"),
    Goal(HELD_OUT, "plain_text_nats", "0.05 or less", "before"),
    Goal(PUBLIC, "youden_j_direct", "0.50"),
    Goal(PUBLIC, "refusal_auroc", "0.85"),
    Goal(PUBLIC, "youden_j_jailbreak", "0.50"),
    Goal(PUBLIC, "multiple_choice_over_chance", "-1 or more", "base"),
    Goal(XSTEST, "youden_j_direct", "0.65"),
    Goal(XSTEST, "refusal_auroc", "0.90"),
)
# Prompts -> their results file, below `RESULTS`.
FILES = {HELD_OUT: "quickstart.json", PUBLIC: "evaluation/results.json", XSTEST: "xstest/results.json"}
# Column -> the model's name in each results file that has it.
COLUMNS = {
    "base": {HELD_OUT: "before", PUBLIC: "base", XSTEST: "base"},
    "SFT": {PUBLIC: "sft", XSTEST: "sft"},
    "student": {HELD_OUT: "after", PUBLIC: "student", XSTEST: "student"},
}
# Score -> heading of its column.
ABLATION = {
    "youden_j": "J",
    "youden_j_noise": "J, typos",
    "refusal_auroc": "AUROC",
    "refusal_auroc_noise": "AUROC, typos",
}
# Score -> heading of the column with what it changed by.
CHANGES = {"youden_j": "change of J", "youden_j_noise": "change of J, typos", "refusal_auroc": "change of AUROC"}
# Of what was asked -> heading of the column with the J of two thresholds on the log-odds.
VIEWS = {"clean": "J by log-odds", "typos": "J by log-odds, typos"}


def goals() -> str:
    """What was reached, beside what was aimed at."""
    results = {prompts: read(file) for prompts, file in FILES.items()}
    seeds = read("quickstart_seeds/results.json")
    last = f"student, mean of {len(seeds['settings']['seed'])} seeds (each)"
    lines: list[tuple[str, ...]] = [("prompts", "score", "aim", *COLUMNS, last)]
    for goal in GOALS:
        models = results[goal.prompts]["models"]
        title = score_text(goal.score, results[goal.prompts]).title + (goal.minus and f", minus that of {goal.minus}")
        cells = (cell(models, goal, names.get(goal.prompts)) for names in COLUMNS.values())
        over = over_seeds(seeds, goal) if goal.prompts == HELD_OUT else ""
        lines.append((goal.prompts, title, goal.aim, *cells, over))
    return table(lines)


def read(file: str) -> dict[str, Any]:
    """A results file."""
    found: dict[str, Any] = json.loads((RESULTS / file).read_text(encoding="utf-8"))
    return found


def over_seeds(seeds: dict[str, Any], goal: Goal) -> str:
    """The mean over seeds, and each of them."""
    student = COLUMNS["student"][HELD_OUT]
    of = seeds["differences"][f"{student} minus {goal.minus}"] if goal.minus else seeds["scores"][student]
    shown, decimals = signed if goal.minus else number, score_text(goal.score).decimals
    each = ", ".join(shown(value, decimals) for value in of[goal.score]["values"])
    return f"{shown(of[goal.score]['mean'], decimals)} ({each})"


def cell(models: dict[str, Any], goal: Goal, name: str | None) -> str:
    """A model's score, or its difference from another's, with its interval; empty where it was not measured."""
    if name is None or name == goal.minus:
        return ""
    if goal.minus:
        return difference(models[name]["against"].get(goal.minus, {}).get(goal.score), score_text(goal.score))
    return scored(models[name]["scores"], goal.score)


def scored(scores: dict[str, Any], name: str, kind: str = "") -> str:
    """A score with its interval, written as one of its kind is; empty where it was not measured."""
    score, decimals = scores.get(name), score_text(kind or name).decimals
    if score is None or score["value"] is None:
        return ""
    return with_interval(score, decimals)


def ablation(file: str = "boundary_ablation/results.json") -> str:
    """One recipe after another on the validation prompts, below the base and its probe."""
    results = read(file)
    runs = results["measured"]
    lines: list[tuple[str, ...]] = [("student", *ABLATION.values(), *CHANGES.values(), *VIEWS.values(), "seeds")]
    for title, scores in {"the base": results["base"], "the base's probe": results["probe"]}.items():
        lines.append((title, *(scored(scores, name) for name in ABLATION), *[""] * (len(CHANGES) + len(VIEWS) + 1)))
    for name, row in results["rows"].items():
        by_odds = (of_thresholds([run.get("thresholds", {}).get(view, {}) for run in runs[name]]) for view in VIEWS)
        changed = results["differences"].get(name, {}).get("scores", {})
        lines.append(
            (
                titled(results, name),
                *(scored(row, score) for score in ABLATION),
                *(changed_by(changed.get(score)) for score in CHANGES),
                *by_odds,
                str(len(runs[name])),
            )
        )
    return table(lines)


def changed_by(found: dict[str, float] | None) -> str:
    """A difference with its interval; empty where it was not measured."""
    return "" if found is None else with_interval(found, 2)


def titled(results: dict[str, Any], name: str) -> str:
    """What is said of a row; the demo's recipe was once that of a script."""
    return str(results["titles"][name]).replace("quickstart.py", "the demo")


def of_thresholds(found: list[dict[str, dict[str, float]]]) -> str:
    """J where greedy decoding refuses, and the highest, each the mean over seeds; empty where one of them is not known."""
    if not all({"greedy", "best"} <= one.keys() for one in found):
        return ""
    greedy, best = (number(fmean(one[name]["youden_j"] for one in found), 2) for name in ("greedy", "best"))
    return f"{greedy}, best {best}"


def wrapped() -> str:
    """Some of these students on the validation prompts as they are, and within frames."""
    results = read("boundary_wrapped/results.json")
    headings = results["headings"]
    lines: list[tuple[str, ...]] = [("student", *headings.values())]
    for name, scores in results["scores"].items():
        lines.append((titled(results, name), *(scored(scores, score, view_of(score)) for score in headings)))
    return table(lines)


def view_of(score: str) -> str:
    """The score that one within frames of a length is one of."""
    return score.removeprefix("framed_").removeprefix("long_")


def curve() -> str:
    """What probes of the base tell apart, by how many rows they were fitted on."""
    lines: list[tuple[str, ...]] = [("labelled rows", "misspelt copies of each", "AUROC", "AUROC, typos")]
    for fit in read("boundary_probe_curve/results.json")["fits"]:
        areas = (with_interval(fit[view], 3) for view in ("clean", "typos"))
        lines.append((str(fit["rows"]), str(fit["copies"]), *areas))
    return table(lines)


# By the name of its markers on the page.
BLOCKS = {
    "curve": curve,
    "goals": goals,
    "ablation": ablation,
    "bfloat16": partial(ablation, "boundary_ablation/bfloat16/results.json"),
    "wrapped": wrapped,
}

if __name__ == "__main__":
    for name, block in BLOCKS.items():
        replace_block(PAGE, name, block())
