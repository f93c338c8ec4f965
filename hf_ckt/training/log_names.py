# SPDX-License-Identifier: Apache-2.0
"""The names of logged values in groups, as dashboards show them."""

from functools import cache, wraps
from typing import Any

from transformers import TrainerCallback

from ..discovery import load_part, part_names
from ..objective.objective import ROLES

_TERMS = {f"{role}_loss" for role in ROLES} | {"aux_loss", "consistency_multiplier"}
# What teachers and the noisy view add to the log begins so.
_BEGINNINGS = {"teacher_": "teacher", "soft_route_": "teacher", "stayed_clean_": "noise"}


def grouped_name(name: str) -> str:
    """
    Returns a logged value's name with its group: `objective/` of a term, `teacher/` of what compares with the teacher or
    counts what it did, `noise/` of what the noisy view did; SFTTrainer's own names as they are. `eval_` stays in front, where
    the trackers' callbacks look for it.

    Example:

    >>> [grouped_name(name) for name in ("distillation_loss/refuse", "eval_acceptance", "stayed_clean_typos", "loss")]
    ['objective/distillation_loss/refuse', 'eval_teacher/acceptance', 'noise/stayed_clean_typos', 'loss']
    """
    evaluated = "eval_" if name.startswith("eval_") else ""
    plain = name.removeprefix(evaluated)
    group = _group(plain.partition("/")[0])
    return f"{evaluated}{group}/{plain}" if group else name


def group_names(callback: TrainerCallback) -> None:
    """Lets a callback, and no other, read what is logged under [`grouped_name`]s; what the trainer keeps stays plain."""
    tell = callback.on_log

    @wraps(tell)
    def on_log(args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> Any:
        if logs is not None:
            logs = {grouped_name(name): value for name, value in logs.items()}
        return tell(args, state, control, logs=logs, **kwargs)

    callback.on_log = on_log  # type: ignore[method-assign]


def _group(name: str) -> str | None:
    beginnings = (group for start, group in _BEGINNINGS.items() if name.startswith(start))
    return _groups().get(name) or next(beginnings, None)


@cache
def _groups() -> dict[str, str]:
    metrics: dict[str, Any] = {name: load_part("metrics", name) for name in part_names("metrics")}
    found = {name: "teacher" for name, metric in metrics.items() if "teacher" in metric.needs}
    found |= {name: "noise" for name, metric in metrics.items() if "noisy" in metric.needs}
    return found | dict.fromkeys(_TERMS, "objective")
