# SPDX-License-Identifier: Apache-2.0
"""From what a user gives as a teacher to the teacher."""

import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any

from accelerate import Accelerator
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..checks import nearest
from ..discovery import load_part, part_name, part_names
from ..teachers.base import Teacher, TeacherSetup


def build_teacher(
    given: Any,
    *,
    student: Any,
    causal_lm: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    accelerator: Accelerator,
    model_settings: Mapping[str, Any] | None = None,
) -> Teacher:
    """
    Loads a teacher.

    Args:
        given (`Any`):
            `None`: the student's own frozen base. A Hub id, a folder or a loaded model. A [`~teachers.base.Teacher`]. Or a
            mapping of which one key is the name of a kind of teacher (`hf-ckt parts --family teachers`), its value the
            source, and the others are the kind's settings: `{"model": "org/name", "load_in_4bit": True}`.
        student, causal_lm, tokenizer, accelerator:
            As in [`~teachers.base.TeacherSetup`].
        model_settings (`Mapping[str, Any]`, *optional*):
            Settings of a model that is given as an id or loaded.

    Raises:
        ValueError: If a mapping names no kind or several, or a setting that the kind does not have.
    """
    build = partial(
        build_teacher,
        student=student,
        causal_lm=causal_lm,
        tokenizer=tokenizer,
        accelerator=accelerator,
    )
    setup = TeacherSetup(tokenizer, student, causal_lm, accelerator, build)
    if isinstance(given, Teacher):
        return given
    if given is None:
        given = {"self": None}
    elif not isinstance(given, Mapping):
        given = {"model": given, **(model_settings or {})}
    kinds = [name for name in given if name in part_names("teachers")]
    if len(kinds) != 1:
        raise ValueError(
            f"teacher_model: {dict(given)!r} must name one kind of teacher among its keys, and names {len(kinds)}. The kinds "
            f"are {', '.join(part_names('teachers'))}: for example {{'model': 'org/name', 'load_in_4bit': True}}."
        )
    kind: Any = load_part("teachers", kinds[0])
    settings = {str(name): value for name, value in given.items() if name != kinds[0]}
    known = [name for name in inspect.signature(kind.load).parameters if name not in ("source", "setup")]
    for name in settings:
        if name not in known:
            raise ValueError(
                f"teacher_model: {kinds[0]} has no setting {name!r}, so it would be ignored.{nearest(name, known)} "
                f"Its settings are {', '.join(known) or 'none'}."
            )
    return kind.load(given[kinds[0]], setup, **settings)


def facts_of(teacher: Teacher) -> dict[str, Any]:
    """Returns what a teacher is known by, its kind first."""
    return {"kind": part_name(teacher), **teacher.facts()}


def require_one_way(teacher_model: Any, teachers: Any) -> None:
    """Raises where both of them say who teaches, or the second does not map names to teachers."""
    if teachers is None:
        return
    if teacher_model is not None:
        raise ValueError(
            "teacher_model and teachers: each says who teaches all rows, and both are given. Name the first as one of the "
            "teachers, as the first of them if rows that name none shall hear it."
        )
    if not isinstance(teachers, Mapping) or not teachers:
        raise TypeError(
            f"teachers: must map names to teachers, got {teachers!r}, so no row could be given one. For example "
            "teachers={'safety': 'org/a-model', 'base': None}."
        )


def require_fitting(teacher: Teacher, terms: Mapping[str, Any]) -> None:
    """Raises ValueError where a term cannot be computed from what a teacher gives."""
    if not teacher.lossy:
        return
    if "contrastive" in terms:
        raise ValueError(
            f"contrastive_weight: the teacher ({teacher.name}) gives {teacher.gives}, and the contrast is made of "
            "hidden states over the student's vocabulary. Set contrastive_weight=0, or use a teacher that gives them."
        )
    for role, term in terms.items():
        temperature = getattr(term.loss, "temperature", 1.0)
        if temperature != 1 and "teacher" in getattr(term.loss, "needs", ()):
            raise ValueError(
                f"{role}_temperature={temperature:g}: the teacher ({teacher.name}) gives {teacher.gives} at temperature 1, and of "
                "all others the mass, so its distribution at another temperature is not known. "
                "Leave it at 1, or use a teacher that gives hidden states."
            )
