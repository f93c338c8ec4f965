# SPDX-License-Identifier: Apache-2.0
"""Scores, differences and the numbers behind figures, as rows and as Markdown tables."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from .figures import BALANCE, balances, category_rows, noise_grids, score_groups, titles
from .numbers import (
    HEADLINE,
    cell,
    difference,
    difference_word,
    interval,
    label,
    number,
    reading,
    score_text,
    signed,
    spaced,
    value,
)
from .probe import bound_words

Rows = list[list[str]]


class Compared(NamedTuple):
    """
    How one score differs between two models.

    Args:
        title, reading (`str`):
            What it is called, and what its number is read against.
        other, own (`str`):
            The score of the model that is compared with, and of the one that is compared.
        difference, interval (`str`):
            Own less other, with its interval.
        word (`str`):
            What the interval says.
    """

    title: str
    reading: str
    other: str
    own: str
    difference: str
    interval: str
    word: str


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


def pooled_models(results: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Returns the methods of which several training runs were pooled, each as a model of its own."""
    return {name: {"title": name, **found} for name, found in (results.get("pooled") or {}).items()}


def score_table(
    results: Mapping[str, Any], names: Sequence[str] | None = None, models: Mapping[str, Any] | None = None
) -> str:
    """
    Returns scores as rows and models as columns; scores that no model has are left out.

    Args:
        results (`Mapping`):
            A results file.
        names (`Sequence[str]`, *optional*):
            Scores; all that there are by default.
        models (`Mapping`, *optional*):
            The columns, each with `title` and `scores`; the file's models by default.
    """
    models = results["models"] if models is None else models
    if names is None:
        names = [name for group in score_groups(models).values() for name in group]
    rows = [["score", *(str(model["title"]) for model in models.values())]]
    for name in names:
        if any(name in model["scores"] for model in models.values()):
            text = score_text(name, results)
            cells = (cell(one["scores"].get(name), text, bound_words(results, of, name)) for of, one in models.items())
            rows.append([label(text), *cells])
    return table(rows)


def headline_table(results: Mapping[str, Any]) -> str:
    """Returns the scores that are named first."""
    return score_table(results, HEADLINE)


def against(model: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the differences of a model by the model that it is compared with."""
    return model.get("against") or {}


def compared_with(models: Mapping[str, Any]) -> list[str]:
    """Returns the names of what others are compared with."""
    return list(dict.fromkeys(other for model in models.values() for other in against(model)))


def difference_rows(results: Mapping[str, Any], other: str, models: Mapping[str, Any] | None = None) -> Rows:
    """
    Returns how much each model's scores differ from another's, with paired intervals.

    Args:
        results (`Mapping`):
            A results file.
        other (`str`):
            Name of the model that the others are compared with.
        models (`Mapping`, *optional*):
            Those that are compared; the file's models by default.
    """
    models = results["models"] if models is None else models
    shown = {name: str(model["title"]) for name, model in {**results["models"], **models}.items()}
    found = {name: against(model)[other] for name, model in models.items() if other in against(model)}
    names = {score: None for scores in found.values() for score in scores}
    rows = [["difference", *(f"{shown[name]} against {shown.get(other, other)}" for name in found)]]
    for score in _in_order(names):
        text = score_text(score, results)
        rows.append([label(text), *(difference(scores.get(score), text) for scores in found.values())])
    return rows


def pairs(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns the pairs of models that are compared, each with the model that is compared with last."""
    return [(name, other) for name, model in results["models"].items() for other in against(model)]


def compared(results: Mapping[str, Any], name: str, other: str) -> dict[str, list[Compared]]:
    """Returns how each score of a model differs from another's, under the headings of scores."""
    models, found = results["models"], against(results["models"][name])[other]
    groups: dict[str, list[Compared]] = {}
    for score in _in_order(found):
        text = score_text(score, results)
        theirs, own = (models.get(one, {"scores": {}})["scores"].get(score) for one in (other, name))
        one = found[score]
        groups.setdefault(text.group, []).append(
            Compared(
                text.title,
                reading(text),
                "-" if theirs is None else value(theirs, text),
                "-" if own is None else value(own, text),
                signed(one["difference"], text.decimals),
                interval(one, text.decimals),
                difference_word(one, text.better),
            )
        )
    return groups


def _in_order(scores: Mapping[str, Any]) -> list[str]:
    """Scores as all tables have them: the headings of these together, and what is not listed last."""
    groups = score_groups({"": {"scores": scores}})
    return [name for group in groups.values() for name in group]


def balance_table_rows(results: Mapping[str, Any]) -> Rows:
    """Returns a row for each model that has helpfulness and safety of its own answers, with what they come to."""
    texts = [score_text(name, results) for name in (*BALANCE, "youden_j")]
    rows = [["model", *map(label, texts)]]
    for name, one in balances(results).items():
        if one.point is not None:
            scores = (*one.point, results["models"][name]["scores"].get("youden_j"))
            rows.append([titles(results)[name], *map(cell, scores, texts)])
    return rows


def curve_table_rows(results: Mapping[str, Any]) -> Rows:
    """Returns a row for each model and shift of its decision token."""
    rows = [["model", "shift, nats", *(score_text(name).title for name in BALANCE)]]
    for name, model in results["models"].items():
        for one in model.get("curve") or ():
            rows.append([titles(results)[name], number(one["bias"], 2), *(number(one[key], 2) for key in BALANCE)])
    return rows


def category_table_rows(results: Mapping[str, Any], rate: str) -> Rows:
    """Returns a row a category with the rate of each model; see `figures.category_rows`."""
    text = score_text("overrefusal")  # of both rates
    rows = [["category", *titles(results).values()]]
    for category, scores in category_rows(results, rate):
        rows.append([spaced(category), *(cell(scores.get(name), text) for name in results["models"])])
    return rows


def noise_table_rows(results: Mapping[str, Any]) -> Rows:
    """Returns a row for each model, corruption and severity, the one without noise first."""
    names = {
        "youden_j": score_text("youden_j"),
        "youden_j_difference": score_text("youden_j_noise_difference")._replace(title="minus clean, points"),
        "harmful_refused": score_text("noisy_refusal_harmful")._replace(title="harmful refused"),
        "benign_refused": score_text("noisy_refusal_benign")._replace(title="benign refused"),
    }
    rows = [["model", "corruption", "severity", *(label(text) for text in names.values()), "n"]]
    for name, grid in noise_grids(results).items():
        for one in [*([grid.clean] if grid.clean else []), *grid.cells.values()]:
            numbers = [cell(one.get(key), text) for key, text in names.items()]
            where = [spaced(one["corruption"]) or "none", f"{one['severity']:g}"]
            rows.append([titles(results)[name], *where, *numbers, str(one.get("n", "-"))])
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
