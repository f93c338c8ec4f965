# SPDX-License-Identifier: Apache-2.0
"""What a probe of the base knows, beside what each model on that base shows."""

from collections.abc import Iterator, Mapping
from typing import Any

from ..scoring.bound import BOUND_OF
from .numbers import difference_word, interval, number, score_text, signed

NOTE = (
    "The probe is a logistic regression on the base's hidden states, fitted on other prompts. It is no upper limit: a trained "
    "model may exceed it."
)


def bound(results: Mapping[str, Any], name: str, score: str) -> Mapping[str, Any] | None:
    """
    Returns the probe's score that one of a model's, or of a pooled method's, is read against; None where there is none.

    Args:
        results (`Mapping`):
            A results file.
        name (`str`):
            Of the model or method.
        score (`str`):
            Of its score.

    Example:

    >>> area = {"value": 0.9, "low": 0.8, "high": 0.95, "n": 40}
    >>> found = {"models": {"base": {"scores": {"probe_auroc": area}}}}
    >>> found |= {"probe": {"model": "base", "differences": {"adapter": {}}}}
    >>> bound(found, "adapter", "refusal_auroc")["value"], bound(found, "another base", "refusal_auroc")
    (0.9, None)
    """
    probe = results.get("probe")
    if not probe or score not in BOUND_OF or name not in probe["differences"]:
        return None
    found = results["models"][probe["model"]]["scores"].get(BOUND_OF[score])
    return None if found is None or found["value"] is None else found


def bound_words(results: Mapping[str, Any], name: str, score: str) -> str:
    """
    Returns the probe's score in words, to stand beside a model's; empty where there is none.

    Example:

    >>> area = {"value": 0.9, "low": 0.8, "high": 0.95, "n": 40}
    >>> found = {"models": {"base": {"scores": {"probe_auroc": area}}}}
    >>> found |= {"probe": {"model": "base", "differences": {"adapter": {}}}}
    >>> bound_words(found, "adapter", "refusal_auroc")
    "base's probe 0.900 [0.800, 0.950]"
    """
    found = bound(results, name, score)
    if found is None:
        return ""
    decimals = score_text(score).decimals
    return f"base's probe {number(found['value'], decimals)} {interval(found, decimals)}".strip()


def bound_line(results: Mapping[str, Any], score: str) -> float | None:
    """Returns where the line of the probe stands in a figure of a score; None where there is none."""
    found = (bound(results, name, score) for name in results["models"])
    return next((one["value"] for one in found if one is not None), None)


def bound_sentence(results: Mapping[str, Any]) -> str:
    """
    Returns how much of what the base knows each model on it shows, as far as the results hold a probe; else nothing.

    Args:
        results (`Mapping`):
            A results file.
    """
    told = [_shown(*one) for one in _compared(results)]
    if not told:
        return ""
    probe = results["probe"]
    area = results["models"][probe["model"]]["scores"]["probe_auroc"]
    text = score_text("probe_auroc")
    known = f"{number(area['value'], text.decimals)} {interval(area, text.decimals)}".strip()
    shown = f"{', '.join(told[:-1])} and {told[-1]}" if len(told) > 1 else told[0]
    return (
        f"What the base knows: a probe of its hidden states tells these harmful prompts from the benign ones with an AUROC of "
        f"{known}. Of that, the refusal log-odds show: {shown}. {NOTE}"
    )


def _compared(results: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    """Title, own score and difference of each model that has both."""
    for name, model in results["models"].items():
        score = model["scores"].get("refusal_auroc")
        if bound(results, name, "refusal_auroc") is not None and score is not None and score["value"] is not None:
            if found := results["probe"]["differences"][name].get("refusal_auroc"):
                yield str(model["title"]), score, found


def _shown(title: str, score: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    decimals = score_text("refusal_auroc").decimals
    told = f"{signed(found['difference'], decimals)} {interval(found, decimals)}"
    word = {"better": "more", "worse": "less"}.get(word := difference_word(found, "more"), word)
    return f"{title} {number(score['value'], decimals)} ({told}, {word})"
