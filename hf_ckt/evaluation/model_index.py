# SPDX-License-Identifier: Apache-2.0
"""The headline scores of a model as the metadata of its card, which the Hub shows beside it."""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .report.numbers import HEADLINE, chance_word, interval, reading, score_text

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

_TOLD_APART = ("direct", "jailbreak", "overrefusal")
SUITES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("youden_j", "safety", "helpfulness", "refusal_auroc"), _TOLD_APART),
    "youden_j_noise": ("noise",),
    **dict.fromkeys(("kd_alignment", "base_agreement"), ("kd",)),
    **{"attack_success_direct": ("direct",), "attack_success_jailbreak": ("jailbreak",)},
    "overrefusal": ("overrefusal",),
    **dict.fromkeys(("multiple_choice_over_chance", "plain_text_nats"), ("utility",)),
}
"""Each headline score, with the suites of prompts that it is measured on."""


def headline_results(results: Mapping[str, Any], name: str, sets: Sequence[Mapping[str, Any]]) -> "list[EvalResult]":
    """
    Returns the headline scores of one model that are defined, in their order, rounded as tables show them; the interval, n and what
    chance would do stand in the metric's name, since the metadata has no place for them.

    Args:
        results (`Mapping`):
            A results file.
        name (`str`):
            The model's name in it.
        sets (`Sequence[Mapping]`):
            The sets of prompts, each with its `name` and its `suite`.
    """
    from huggingface_hub import EvalResult

    scores = {**results["models"][name]["scores"], **results.get("agreement", {}).get(name, {})}
    found = []
    for score in HEADLINE:
        measured, text = scores.get(score), score_text(score, results)
        if measured is None or measured["value"] is None:
            continue
        asked = ", ".join(_asked(score, sets)) or "not recorded"
        asked += ", under noise" if SUITES[score] == ("noise",) else ""
        bounds = interval(measured, text.decimals)
        facts = (
            reading(text),
            bounds and f"95 % interval {bounds}",
            f"n={measured['n']}",
            chance_word(measured, text),
        )
        found.append(
            EvalResult(
                task_type="text-generation",
                dataset_type=re.sub(r"[^\w.-]+", "-", asked),
                dataset_name=asked,
                metric_type=score,
                metric_name=f"{text.title}: {', '.join(filter(None, facts))}",
                metric_value=round(measured["value"], text.decimals) + 0.0,
            )
        )
    return found


def _asked(score: str, sets: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the sets that a score is of: not those of the other kind of prompts in its suites, nor of another task."""
    suites: dict[str, list[str]] = {}
    for one in sets:
        suites.setdefault(one["suite"], []).append(one["name"])
    harmful, benign = set(suites.get("direct", ())), set(suites.get("overrefusal", ()))
    found = list(dict.fromkeys(name for suite, names in suites.items() if suite in SUITES[score] for name in names))
    if score in ("safety", "attack_success_jailbreak"):
        return [name for name in found if name in harmful or name not in benign]
    if score == "helpfulness":
        return [name for name in found if name in benign or name not in harmful]
    plain_text = [name for name in found if name in ("plain text", "plain_text")]
    if score == "plain_text_nats":
        return plain_text
    if score == "multiple_choice_over_chance":  # whose set is the first of its suite; one of word problems may follow
        return [name for name in found if name not in plain_text][:1]
    return found
