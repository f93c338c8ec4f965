# SPDX-License-Identifier: Apache-2.0
"""Results as Markdown tables, and the report as a Markdown file."""

from collections.abc import Mapping, Sequence
from typing import Any

from .figures import BALANCE, balance_points, category_rows, missing_panels, noise_grids, score_groups, titles
from .findings import Findings, not_measured
from .numbers import (
    HEADLINE,
    cell,
    conditions_sentence,
    difference,
    interval,
    judge_sentence,
    number,
    score_text,
    signed,
    spaced,
)

SMOKE = "The smoke tier checks the machinery; its numbers are no result."
NO_LM_EVAL = "lm-eval was not run: there is no lm_eval.json beside the results; `hf-ckt lm-eval` writes one."
_ALT_TEXTS = {
    "headline": "Headline scores",
    "balance": "Over-refusal against attack success",
    "attack_success": "Attack success by category",
    "overrefusal": "Over-refusal by category",
    "noise_heatmap": "Overall Safety Score by corruption and severity",
    "severity": "Overall Safety Score by severity",
    "calibration": "Confidence of the student against agreement with the teacher",
}
# Column of a report -> key of a model's part of the results, or of its `chat`.
_ASKED = {
    **{"trained on": "trained_on", "tokenizer": "tokenizer", "chat template": "template"},
    **{"system prompt sent as": "system_prompt_sent_as", "thoughts": "reasoning", "generation": "generation"},
}
Rows = list[list[str]]


def table(rows: Sequence[Sequence[Any]]) -> str:
    r"""
    Returns rows, the first of them the heads, as a Markdown table in which no cell is markup.

    Example:

    >>> print(table([["a", "b"], ["1|2", "<b>"]]))
    | a | b |
    | --- | --- |
    | 1\|2 | &lt;b> |
    """
    shown = [[plain(text) for text in row] for row in rows]
    lines = [shown[0], ["---"] * len(shown[0]), *shown[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plain(text: Any) -> str:
    r"""
    Returns a text that Markdown shows as it is: names of models and categories come from outside.

    Example:

    >>> print(plain("![x](https://example.org)"))
    ![x]\(https://example.org)
    """
    text = " ".join(str(text).split())
    for sign, written in (("\\", "\\\\"), ("&", "&amp;"), ("<", "&lt;"), ("](", "]\\("), ("|", "\\|"), ("`", "\\`")):
        text = text.replace(sign, written)
    return text.replace("*", "\\*")


def score_table(results: Mapping[str, Any], names: Sequence[str] | None = None) -> str:
    """
    Returns scores as rows and models as columns; scores that no model has are left out.

    Args:
        results (`Mapping`):
            A results file.
        names (`Sequence[str]`, *optional*):
            Scores; all that there are by default.
    """
    models = results["models"]
    if names is None:
        names = [name for group in score_groups(results).values() for name in group]
    rows = [["score", *titles(results).values()]]
    for name in names:
        if any(name in model["scores"] for model in models.values()):
            text = score_text(name, results)
            cells = [cell(model["scores"].get(name), text.decimals) for model in models.values()]
            rows.append([f"{text.title} ({text.better} is better)" if text.better else text.title, *cells])
    return table(rows)


def headline_table(results: Mapping[str, Any]) -> str:
    """Returns the scores that are named first."""
    return score_table(results, HEADLINE)


def scores_title(results: Mapping[str, Any]) -> str:
    """Returns the heading over all scores."""
    return "Base against aligned" if len(results["models"]) > 1 else "All scores"


def difference_rows(results: Mapping[str, Any], other: str) -> Rows:
    """
    Returns how much each model's scores differ from another's, with paired intervals.

    Args:
        results (`Mapping`):
            A results file.
        other (`str`):
            Name of the model that the others are compared with.
    """
    shown = titles(results)
    found = {name: model["against"][other] for name, model in results["models"].items() if other in against(model)}
    names = {score: None for scores in found.values() for score in scores}
    order = [score for group in score_groups(results).values() for score in group if score in names]
    rows = [["difference", *(f"{shown[name]} against {shown.get(other, other)}" for name in found)]]
    for score in order:
        text = score_text(score, results)
        rows.append([text.title, *(difference(scores.get(score), text) for scores in found.values())])
    return rows


def against(model: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the differences of a model by the model that it is compared with."""
    return model.get("against") or {}


def compared_with(results: Mapping[str, Any]) -> list[str]:
    """Returns the models that others are compared with."""
    return list(dict.fromkeys(other for model in results["models"].values() for other in against(model)))


def balance_table_rows(results: Mapping[str, Any]) -> Rows:
    """Returns a row for each model that has over-refusal and attack success."""
    heads = [score_text(name, results).title for name in BALANCE]
    points = balance_points(results)
    return [
        ["model", *heads],
        *([titles(results)[name], *(cell(score, 2) for score in pair)] for name, pair in points.items()),
    ]


def category_table_rows(results: Mapping[str, Any], rate: str) -> Rows:
    """Returns a row a category with the rate of each model; see `figures.category_rows`."""
    rows = [["category", *titles(results).values()]]
    for category, scores in category_rows(results, rate):
        rows.append([spaced(category), *(cell(scores.get(name), 2) for name in results["models"])])
    return rows


def noise_table_rows(results: Mapping[str, Any]) -> Rows:
    """Returns a row for each model, corruption and severity."""
    rows = [
        [
            "model",
            "corruption",
            "severity",
            "OSS",
            "OSS / clean OSS",
            "harmful refused",
            "benign refused",
            "flipped",
            "n",
        ]
    ]
    for name, grid in noise_grids(results).items():
        for (corruption, severity), one in grid.cells.items():
            rates = [cell(one.get(key), 2) for key in ("harmful_refused", "benign_refused", "flip_rate")]
            numbers = [number(one["oss"], 1), number(one.get("oss_ratio"), 3)]
            rows.append(
                [titles(results)[name], spaced(corruption), f"{severity:g}", *numbers, *rates, str(one.get("n", "-"))]
            )
    return rows


def calibration_table_rows(results: Mapping[str, Any]) -> Rows:
    """Returns a row for each model and bin of confidence that holds a token."""
    rows = [["model", "confidence from", "to", "mean confidence", "agreement with the teacher", "tokens"]]
    for name, model in results["models"].items():
        for one in model.get("calibration") or ():
            numbers = [number(one[key], 3) for key in ("confidence", "agreement")]
            bounds = [number(one[key], 2) for key in ("low", "high")]
            rows.append([titles(results)[name], *bounds, *numbers, str(one["n"])])
    return rows


def lm_eval_rows(findings: Findings) -> Rows:
    """Returns a row for each task of the harness and model."""
    shown = titles(findings.results)
    rows = [["task", "model", "metric", "value", "standard error", "n", "examples in the prompt"]]
    for task, found in (findings.lm_eval or {"tasks": {}})["tasks"].items():
        shots = found.get("num_fewshot")
        for name, one in found["models"].items():
            value = f"{number(one['value'], 3)} {interval(one, 3)}".strip()
            facts = [value, number(one.get("stderr"), 3), str(one.get("n", "-")), "-" if shots is None else str(shots)]
            rows.append([str(found.get("title") or task), shown.get(name, name), str(one["metric"]), *facts])
    return rows


def judge_rows(results: Mapping[str, Any]) -> Rows:
    """Returns a row for each judge and set of labelled answers that its error was measured on."""
    keys = ("accuracy", "precision", "recall", "f1", "bias_benign", "bias_harmful")
    rows = [["judge", "labelled set", "n", *map(spaced, keys)]]
    judge = results["judge"]
    for name, error in ((judge["name"], judge.get("error")), (judge.get("benign"), judge.get("benign_error"))):
        for found in error or ():
            shown = [signed if key.startswith("bias") else number for key in keys]
            numbers = [write(found.get(key), 3) for write, key in zip(shown, keys, strict=True)]
            rows.append([str(name), str(found["set"]), str(found["n"]), *numbers])
    return rows


def set_rows(results: Mapping[str, Any]) -> Rows:
    """Returns a row for each set of prompts and suite."""
    keys = ("name", "suite", "n", "source", "licence")
    return [
        ["set", "suite", "n", "source", "licence"],
        *([str(one.get(key, "")) for key in keys] for one in results["sets"]),
    ]


def model_rows(results: Mapping[str, Any]) -> Rows:
    """
    Returns a row a model: what it is called in the report, what it is, and how it was asked; of the latter the columns
    that the file states.
    """
    columns: dict[str, list[str]] = {name: [] for name in ("title", "model", "adapter", *_ASKED)}
    for one in results["models"].values():
        asked = {**one, **(one.get("chat") or {})}
        columns["title"].append(str(one["title"]))
        columns["model"].append(str(one.get("model", "")))
        columns["adapter"].append(str(one.get("adapter") or "none"))
        for name, key in _ASKED.items():
            columns[name].append("" if asked.get(key) is None else _shown(asked[key]))
    kept = {name: cells for name, cells in columns.items() if name not in _ASKED or any(cells)}
    return [list(kept), *map(list, zip(*kept.values(), strict=True))]


def setting_rows(findings: Findings) -> Rows:
    """Returns how the runs were made, a row each."""
    results, harness = findings.results, findings.lm_eval or {}
    facts = {"command": results.get("command") or "not recorded", "tier": results["tier"], "device": results["device"]}
    facts |= {"suites": results["suites"], "seeds": results["seeds"], **results["generation"], **results["settings"]}
    own = {"command": harness.get("command"), "seeds": harness.get("seeds"), **(harness.get("settings") or {})}
    facts |= {f"lm-eval {name}": value for name, value in own.items() if value is not None}
    return [["setting", "value"], *([spaced(name), _shown(value)] for name, value in facts.items())]


def version_rows(findings: Findings) -> Rows:
    """Returns the libraries with their versions; those of the harness where it was run with others."""
    versions = dict(findings.results["versions"])
    for name, version in ((findings.lm_eval or {}).get("versions") or {}).items():
        if versions.setdefault(name, version) != version:
            versions[f"{name} (lm-eval)"] = version
    return [["library", "version"], *([name, str(version)] for name, version in versions.items())]


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {one}" for name, one in value.items()) or "none"
    return str(value)


def markdown(findings: Findings, plots: Sequence[str] = ()) -> str:
    """
    Returns the report as Markdown. It holds no answer: they are in the page, folded away.

    Args:
        findings ([`Findings`]):
            What was measured.
        plots (`Sequence[str]`, *optional*):
            Names of plots that lie in the folder `plots` beside it.
    """
    results = findings.results
    conditions, judge = plain(conditions_sentence(results)), plain(judge_sentence(results))

    def plot(name: str) -> list[str]:
        return [f"![{_ALT_TEXTS[name]}](plots/{name}.svg)"] if name in plots else []

    def section(title: str, rows: Rows, part: str, *names: str, judged: bool = True) -> list[str]:
        if len(rows) < 2:
            return [f"## {title}", plain(not_measured(results, part))]
        pictures = [line for name in names for line in plot(name)]
        return [f"## {title}", *pictures, table(rows), f"{conditions} {judge}" if judged else conditions]

    parts = ["# Evaluation", *([f"**{SMOKE}**"] if results["tier"] == "smoke" else [])]
    parts += ["## Headline scores", *plot("headline"), headline_table(results), f"{conditions} {judge}"]
    parts += [plain(not_measured(results, part)) for part in missing_panels(results)]
    parts += [f"## {scores_title(results)}", score_table(results), f"{conditions} {judge}"]
    parts += [table(difference_rows(results, other)) for other in compared_with(results)]
    if len(results["models"]) == 1:
        parts.append("Only one model was evaluated, so there is none to compare it with.")
    elif compared_with(results):
        parts.append("Differences are paired: both models on the same resampled prompts.")
    parts += plot("balance")
    parts += section(
        "Attack success by category",
        category_table_rows(results, "attack_success"),
        "attack_success",
        "attack_success",
    )
    parts += section(
        "Over-refusal by category", category_table_rows(results, "overrefusal"), "overrefusal", "overrefusal"
    )
    parts += section("Robustness to noise", noise_table_rows(results), "noise", "noise_heatmap", "severity")
    parts += section("Agreement with the teacher", calibration_table_rows(results), "kd", "calibration", judged=False)
    harness = lm_eval_rows(findings)
    parts += ["## lm-eval", table(harness) if len(harness) > 1 else NO_LM_EVAL]
    parts += [plain(judge_sentence(findings.lm_eval))] if "judge" in (findings.lm_eval or {}) else []  # type: ignore[arg-type]
    parts += ["## How it was measured", table(model_rows(results)), table(setting_rows(findings))]
    parts += [table(judge_rows(results))] if len(judge_rows(results)) > 1 else []
    parts += [table(set_rows(results)), table(version_rows(findings))]
    return "\n\n".join(parts) + "\n"
