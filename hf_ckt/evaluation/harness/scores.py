# SPDX-License-Identifier: Apache-2.0
"""From the results of EleutherAI's harness to the rows of a table."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..scoring.answers import Answers
from ..scoring.intervals import wilson_interval
from ..scoring.rates import Rates
from .catalogue import JUDGED_TASKS

_TITLES = {"gsm8k": "GSM8K", "mmlu": "MMLU"}
# A task's first metric is shown, but for this one: the strict pattern counts the solutions that end in `####`, which few
# chat models write unasked.
_SHOWN = {"gsm8k": "exact_match,flexible-extract"}


def score_rows(
    models: Sequence[str], names: Sequence[str], found: Mapping[tuple[str, str], Mapping[str, Any]]
) -> dict[str, Any]:
    """
    Returns what a table shows: a row for each task, and one for each group that has a mean over its subtasks.

    Args:
        models (`Sequence[str]`), names (`Sequence[str]`):
            Models, and tasks, groups or tags, in the order of the table.
        found (`Mapping`):
            By model and name, what `harness.run_tasks` returned.
    """
    rows: dict[str, Any] = {}
    for name in names:
        for model in models:
            result = found[model, name]
            for task in result["rows"]:
                row = rows.setdefault(task, _heading(result, task))
                row["models"][model] = shown_score(result, task)
    return rows


def _heading(result: Mapping[str, Any], task: str) -> dict[str, Any]:
    metric = _shown_metric(result, task).partition(",")[0]
    # Of a group within a group the harness may know neither, since it goes through them from the outside.
    tasks = _tasks_of(result, task)
    better = {result["higher_is_better"].get(name, {}).get(metric) for name in tasks}
    shots = {result["n-shot"].get(name) for name in tasks}
    return {
        "title": _TITLES.get(task) or result["results"][task].get("alias") or task,
        "higher_is_better": better.pop() if len(better) == 1 else None,
        "num_fewshot": shots.pop() if len(shots) == 1 else None,
        "version": result["versions"].get(task),
        "models": {},
    }


def _tasks_of(result: Mapping[str, Any], task: str) -> list[str]:
    """The task itself, or all that ran for a group."""
    return [task] if task in result["samples"] else list(result["samples"])


def _shown_metric(result: Mapping[str, Any], task: str) -> str:
    """The key of the metric that a table shows: `name,filter`."""
    metrics = [name for name in result["results"][task] if "," in name and "_stderr," not in name]
    preferred = _SHOWN.get(task)
    return preferred if preferred is not None and preferred in metrics else metrics[0]


def shown_score(result: Mapping[str, Any], task: str) -> dict[str, Any]:
    """
    Returns the metric of a task, or of a whole group, that a table shows.

    Args:
        result (`Mapping`):
            Of `harness.run_tasks`.
        task (`str`):
            One of its `rows`.

    Returns:
        `dict`: `metric`, `value`, the harness's `stderr` (None with a single document), `n` documents, and `low` and `high`
        of a 95 % interval where the value is a share of the documents, else None: Wilson's, or that of clustered answers
        where each request is asked in several templates.
    """
    scores, key = result["results"][task], _shown_metric(result, task)
    metric, _, by = key.partition(",")
    value = _number(scores[key])
    low, high = _interval(result, task, metric, by, value)
    return {
        "metric": metric if by == "none" else f"{metric} ({by})",
        "value": value,
        "stderr": _number(scores.get(f"{metric}_stderr,{by}")),
        "n": scores.get("sample_count", {}).get(key, scores["sample_len"]),
        "low": low,
        "high": high,
    }


def _interval(
    result: Mapping[str, Any], task: str, metric: str, by: str, value: float | None
) -> tuple[float | None, float | None]:
    """The harness's standard error is 0 where all documents count the same; their share is not that certain."""
    samples = (sample for name in _tasks_of(result, task) for sample in result["samples"][name])
    counted = [sample for sample in samples if sample["filter"] == by and metric in sample]
    values = [sample[metric] for sample in counted]
    if not values or any(one not in (0, 1) for one in values):
        return None, None
    if value is None or abs(sum(values) / len(values) - value) > 1e-9:  # a mean over subtasks, say
        return None, None
    requests = [sample["doc"]["id"] for sample in counted] if task in JUDGED_TASKS else []
    if len({*requests}) < len(requests):  # a request in several templates is asked once
        templates = [sample["doc"]["template"] for sample in counted]
        return Rates.interval(Rates({task: Answers(values, requests, templates)}).draws()[task])
    return wilson_interval(int(sum(values)), len(values))


def _number(value: Any) -> float | None:
    """The harness writes "N/A" where it has no standard error, and JSON has no NaN."""
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None
