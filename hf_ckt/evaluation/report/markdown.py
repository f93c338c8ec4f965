# SPDX-License-Identifier: Apache-2.0
"""The report as a Markdown file."""

from collections.abc import Mapping, Sequence
from typing import Any

from .facts import (
    judge_form_rows,
    judge_rows,
    lm_eval_rows,
    model_left_out,
    model_rows,
    near_duplicate_rows,
    sent_texts,
    set_rows,
    setting_rows,
    version_rows,
)
from .figures import missing_panels
from .findings import Findings, not_measured
from .probe import bound_sentence
from .sentences import (
    CHANCE_NOTE,
    CURVE_NOTE,
    NO_LM_EVAL,
    NO_TEACHER,
    PAIRED_NOTE,
    POOLED_NOTE,
    SMOKE,
    bias_sentences,
    conditions_sentence,
    judge_sentence,
    score_sentences,
    warning_sentences,
)
from .tables import (
    Rows,
    balance_table_rows,
    calibration_table_rows,
    category_table_rows,
    compared_with,
    difference_rows,
    headline_table,
    noise_table_rows,
    plain,
    pooled_models,
    score_table,
    table,
)

_ALT_TEXTS = {
    "headline": "Headline scores",
    "balance": "Safety against helpfulness",
    "attack_success": "Attack success by category",
    "overrefusal": "Over-refusal by category",
    "noise_heatmap": "Youden's J by corruption and severity",
    "severity": "Youden's J by severity",
    "calibration": "Confidence of the student against agreement with the teacher",
}


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
    conditions = plain(conditions_sentence(results))
    judged = f"{conditions} {plain(judge_sentence(results, largest=True))}"

    def section(title: str, rows: Rows, part: str, *names: str, note: str = "", below: str = judged) -> list[str]:
        pictures = [f"![{_ALT_TEXTS[name]}](plots/{name}.svg)" for name in names if name in plots]
        if len(rows) < 2 and not pictures:
            return [f"## {title}", plain(not_measured(results, part))]
        shown = [table(rows)] if len(rows) > 1 else []
        return [f"## {title}", *([note] if note else []), *pictures, *shown, below]

    parts = ["# Evaluation", *([f"**{SMOKE}**"] if results["tier"] == "smoke" else [])]
    parts += [f"**{plain(said)}**" for said in warning_sentences(results)]
    parts += ["## Headline scores", *(["![Headline scores](plots/headline.svg)"] if "headline" in plots else [])]
    parts += [headline_table(results), *_under_scores(results), judged]
    parts += [plain(not_measured(results, part)) for part in missing_panels(results)]
    parts += ["## All scores", score_table(results), judged]
    parts += _pairs(results, results["models"], "## Every pair compared")
    if len(results["models"]) == 1:
        parts.append("Only one model was evaluated, so there is none to compare it with.")
    parts += _pooled(results)
    parts += section("Safety against helpfulness", balance_table_rows(results), "balance", "balance", note=CURVE_NOTE)
    for part in ("attack_success", "overrefusal"):
        parts += section(_ALT_TEXTS[part], category_table_rows(results, part), part, part)
    parts += section("Robustness to noise", noise_table_rows(results), "noise", "noise_heatmap", "severity")
    parts += section(
        "Agreement with the teacher", calibration_table_rows(results), "kd", "calibration", below=conditions
    )
    parts += [plain(sentence) for sentence in model_left_out(results)]
    harness = lm_eval_rows(findings)
    parts += ["## lm-eval", table(harness) if len(harness) > 1 else NO_LM_EVAL]
    parts += [plain(judge_sentence(findings.lm_eval))] if "judge" in (findings.lm_eval or {}) else []  # type: ignore[arg-type]
    parts += _method(findings)
    return "\n\n".join(parts) + "\n"


def _under_scores(results: Mapping[str, Any]) -> list[str]:
    """What the words beside the headline scores mean."""
    no_teacher = any("base_agreement" in model["scores"] for model in results["models"].values())
    sentences = [CHANCE_NOTE, score_sentences(results), bias_sentences(results), NO_TEACHER if no_teacher else ""]
    return [*filter(None, [plain(bound_sentence(results))]), plain(" ".join(filter(None, sentences)))]


def _pairs(results: Mapping[str, Any], models: Mapping[str, Any], title: str) -> list[str]:
    """A table for each model that others are compared with, nearest pairs last."""
    partners = compared_with(models)
    names = {name: str(model["title"]) for name, model in results["models"].items()}
    found = [title, PAIRED_NOTE] if partners else []
    for other in partners:
        found += [f"### Against {plain(names.get(other, other))}", table(difference_rows(results, other, models))]
    return found


def _pooled(results: Mapping[str, Any]) -> list[str]:
    models = pooled_models(results)
    if not models:
        return []
    runs = [["method", "runs"], *([name, ", ".join(map(str, model["runs"]))] for name, model in models.items())]
    parts = ["## Several training seeds pooled", POOLED_NOTE, table(runs), score_table(results, models=models)]
    return parts + _pairs(results, models, "### Pooled methods compared")


def _method(findings: Findings) -> list[str]:
    results = findings.results
    parts = ["## How it was measured", table(model_rows(results))]
    for names, text in sent_texts(results):
        # Indented, so that nothing in it is markup.
        parts += [f"Sent to {plain(names)} for one prompt:", "\n".join(f"    {line}" for line in text.splitlines())]
    parts += [plain(judge_sentence(results)), table(setting_rows(findings))]
    parts += [table(rows) for rows in (judge_rows(results), judge_form_rows(results)) if len(rows) > 1]
    parts.append(table(set_rows(results)))
    if len(near_duplicate_rows(results)) > 1:
        parts += ["These prompts are near-duplicates of a training text, so a rate on them may be recall:"]
        parts.append(table(near_duplicate_rows(results)))
    return [*parts, table(version_rows(findings))]
