# SPDX-License-Identifier: Apache-2.0
"""The wording of input errors: rule, value, silent consequence, remedy, in one or two sentences."""

import difflib
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any


def nearest(name: str, known: Iterable[str], cutoff: float = 0.5) -> str:
    """
    Returns a hint naming the known name closest to `name`, or an empty string when none is close: of a long list, something
    is always a little like it, so `cutoff` in [0, 1] is higher there.
    """
    match = difflib.get_close_matches(str(name), list(known), n=1, cutoff=cutoff)
    return f" Did you mean {match[0]!r}?" if match else ""


@contextmanager
def said_of(name: str, argument: str = "teachers") -> Iterator[None]:
    """Errors that begin with `teacher_model` begin with that argument and the name of the one teacher in it instead."""
    try:
        yield
    except (ImportError, OSError, TypeError, ValueError) as error:
        text = str(error)
        if text.startswith(("teacher_model:", "teacher_model, ")):
            error.args = (f"{argument}, {name}{text.removeprefix('teacher_model')}",)
        raise


def missing_package(package: str, use: str, extra: str) -> str:
    """
    Returns what is said where a package of an extra is not installed; the caller ends the sentence.

    Args:
        package (`str`):
            As an index names it.
        use (`str`):
            What it is there for.
        extra (`str`):
            The extra of this package that brings it.

    Example:

    >>> missing_package("matplotlib", "it draws the plots", "plot")
    'matplotlib is not installed, and it draws the plots. Install it with `pip install "hf-ckt[plot]"`'
    """
    return f'{package} is not installed, and {use}. Install it with `pip install "hf-ckt[{extra}]"`'


def require_known(field: str, name: Any, known: Iterable[str]) -> None:
    """Raises ValueError, with the nearest known name, unless `name` is one of `known`."""
    known = sorted(known)
    if name not in known:
        raise ValueError(f"{field}: unknown name {name!r}.{nearest(name, known)} Known: {', '.join(known)}.")


def require_number(field: str, value: Any) -> None:
    """Raises TypeError unless `value` is a real number, ValueError if it is NaN or infinite."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{field}: must be a number, got {value!r} ({type(value).__name__}).")
    if not math.isfinite(value):
        raise ValueError(f"{field}: must be finite, got {value}. It would turn every loss and every weight into NaN.")


def require_weight(field: str, value: Any) -> None:
    """Raises unless `value` is a finite number >= 0."""
    require_number(field, value)
    if value < 0:
        raise ValueError(
            f"{field}: must be 0 or more, got {value}. A negative weight would maximise the loss. Use 0 to switch it off."
        )


def require_positive(field: str, value: Any, consequence: str) -> None:
    """Raises unless `value` is a finite number > 0."""
    require_number(field, value)
    if value <= 0:
        raise ValueError(f"{field}: must be greater than 0, got {value}. {consequence}")


def require_within(
    field: str,
    value: Any,
    low: float,
    high: float,
    consequence: str,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> None:
    """Raises unless `value` is a number between `low` and `high`; `open_*` exclude the bound itself."""
    require_number(field, value)
    if value < low or value > high or (open_low and value == low) or (open_high and value == high):
        bounds = f"{'(' if open_low else '['}{low:g}, {high:g}{')' if open_high else ']'}"
        raise ValueError(f"{field}: must lie in {bounds}, got {value}. {consequence}")


def require_count(field: str, value: Any, low: int, consequence: str) -> None:
    """Raises unless `value` is an integer >= `low`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{field}: must be a whole number, got {value!r} ({type(value).__name__}).")
    if value < low:
        raise ValueError(f"{field}: must be {low} or more, got {value}. {consequence}")


def require_columns(
    dataset_name: str,
    columns: Iterable[str],
    needed: Iterable[str],
    option: str,
    otherwise: str = "switch the option off",
) -> None:
    """Raises ValueError naming the columns that `option` needs and the dataset lacks, and what to do `otherwise`."""
    columns = list(columns)
    missing = [name for name in needed if name not in columns]
    if missing:
        hints = "".join(nearest(name, columns) for name in missing[:1])
        raise ValueError(
            f"{option}: the {dataset_name} dataset has no column {', '.join(map(repr, missing))} (it has "
            f"{', '.join(map(repr, columns))}), so there is nothing to read for it.{hints} Add or rename the column, "
            f"or {otherwise}."
        )


def require_candidates(part: str, kind: str, count: int, remedy: str, least: int = 2) -> None:
    """Raises ValueError when a contrastive part has fewer than two candidates, or three of which one is the anchor itself."""
    if count < least:
        few = "With one candidate the loss is always 0" if least == 2 else "With fewer there is nothing to part, so it"
        raise ValueError(f"{part}: needs at least {least} {kind}, got {count}. {few} and trains nothing. {remedy}")


def require_same_vocabulary(student: dict[str, int], teacher: dict[str, int], shown: int = 3) -> None:
    """
    Raises ValueError when an id means different tokens to the student's and the teacher's tokenizer.

    Args:
        student, teacher (`dict[str, int]`):
            Token to id, as `tokenizer.get_vocab()` returns it.
        shown (`int`, *optional*, defaults to `3`):
            How many differing ids the message names.
    """
    student_tokens = {index: token for token, index in student.items()}
    teacher_tokens = {index: token for token, index in teacher.items()}
    differing = [
        index
        for index in sorted(student_tokens.keys() & teacher_tokens.keys())
        if student_tokens[index] != teacher_tokens[index]
    ]
    missing = len(student_tokens.keys() - teacher_tokens.keys())
    # Tokens added behind the shared ones (a cloned chat template, say) are left out of the comparison of the two
    # models; a teacher that lacks many of the student's ids has another tokenizer.
    if not differing and missing <= max(64, len(student_tokens) // 100):
        return
    examples = ", ".join(
        f"{index}: {student_tokens[index]!r} / {teacher_tokens[index]!r}" for index in differing[:shown]
    )
    detail = (
        f"first ids that differ (student / teacher): {examples}" if differing else f"the teacher lacks {missing} ids"
    )
    raise ValueError(
        f"teacher_model: its tokenizer is not the student's ({len(differing)} ids differ; {detail}). Comparing their "
        "distributions id by id would teach noise. Use a teacher with the same tokenizer."
    )
