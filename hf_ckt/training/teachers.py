# SPDX-License-Identifier: Apache-2.0
"""From what a user gives as a teacher to the teacher."""

import inspect
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from accelerate.utils import broadcast_object_list

from ..checks import nearest, said_of
from ..discovery import load_part, part_name, part_names
from ..objective.candidates import DECIDED
from ..teachers.base import Teacher, TeacherSetup
from ..teachers.cache import CacheTeacher
from ..teachers.self import SelfTeacher
from .noise_config import require_whole_documents

logger = logging.getLogger(__name__)


def build_teacher(given: Any, setup: TeacherSetup, model_settings: Mapping[str, Any] | None = None) -> Teacher:
    """
    Loads a teacher.

    Args:
        given (`Any`):
            `None`: the student's own frozen base. A Hub id, a folder or a loaded model. A [`~teachers.base.Teacher`]. Or a
            mapping of which one key is the name of a kind of teacher (`hf-ckt parts --family teachers`), its value the
            source, and the others are the kind's settings: `{"model": "org/name", "load_in_4bit": True}`.
        setup ([`~teachers.base.TeacherSetup`]):
            What the run has; how a teacher within another is built is added here.
        model_settings (`Mapping[str, Any]`, *optional*):
            Settings of every model that does not say otherwise.

    Raises:
        ValueError: If a mapping names no kind or several, or a setting that the kind does not have.
    """
    if isinstance(given, Teacher):
        return given

    def build(one: Any, **changes: Any) -> Teacher:
        return build_teacher(one, replace(setup, **changes), model_settings)

    kind, source, settings = read_kind(given)
    if kind == "model":
        settings = _beside(settings, model_settings or {})
    loaded: Any = load_part("teachers", kind)
    return loaded.load(source, replace(setup, build=build), **settings)


def read_kind(given: Any) -> tuple[str, Any, dict[str, Any]]:
    """
    Returns which kind of teacher is meant, its source and its settings, of what `teacher_model` takes.

    Raises:
        ValueError: If a mapping names no kind or several, or a setting that the kind does not have.
    """
    if given is None:
        return "self", None, {}
    if not isinstance(given, Mapping):
        return "model", given, {}
    kinds = [name for name in given if name in part_names("teachers")]
    if len(kinds) != 1:
        meant = (
            next(filter(None, (nearest(name, part_names("teachers"), 0.6) for name in given)), "") if not kinds else ""
        )
        raise ValueError(
            f"teacher_model: {dict(given)!r} must name one kind of teacher among its keys, and names "
            f"{', '.join(kinds) or 'none'}, so it is not known who teaches.{meant} The kinds are "
            f"{', '.join(part_names('teachers'))}: for example {{'model': 'org/name', 'load_in_4bit': True}}."
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
    return kinds[0], given[kinds[0]], settings


def _beside(settings: dict[str, Any], run: Mapping[str, Any]) -> dict[str, Any]:
    """A model's own settings, and of the run's what they leave open."""
    found = {name: value for name, value in run.items() if value is not None}
    if {"load_in_4bit", "load_in_8bit"} & settings.keys():
        found.pop("quantization_config", None)
    found |= settings
    shared, own = run.get("init_kwargs"), settings.get("init_kwargs")
    if isinstance(shared, Mapping) and isinstance(own, Mapping):
        found["init_kwargs"] = {**shared, **own}
    return found


def load_teacher(trainer: Any, given: Any, model_settings: Mapping[str, Any]) -> tuple[Teacher, dict[str, Any]]:
    """
    Loads the teacher of a run and places it beside the student.

    Args:
        trainer ([`~training.trainer.ContrastiveRobustTrainer`]):
            Its objective is built.
        given (`Any`), model_settings (`Mapping[str, Any]`):
            See [`build_teacher`].

    Returns:
        `tuple[Teacher, dict[str, Any]]`: it, and what it is known by, as the main process knows it.
    """
    trainer._marks.require_heard()
    setup = TeacherSetup(trainer._tokenizer, trainer.model, trainer._causal_lm, trainer.accelerator)
    teacher = build_teacher(trainer._contexts.wrapped(given, model_settings), setup, model_settings)
    require_fitting(teacher, trainer.objective.terms)
    require_documents(teacher, trainer.args)
    require_sides_read(teacher, trainer.args)
    known = broadcast_object_list([teacher.manifest()])[0]
    teacher.place(trainer.accelerator)
    return teacher, known


def warn_unread(given: bool, name: str | None) -> None:
    """Warns where a teacher was given and none, which would have a name, is read."""
    if given and name is None:
        logger.warning(
            "teacher_model: no term of this run reads a teacher, so it is not loaded and teaches nothing. Give "
            "distillation_weight or contrastive_weight a value above 0, or leave teacher_model out."
        )


def reference_beside(teacher: Teacher | None) -> Teacher:
    """Returns what reads the student's base: the teacher itself where it does, and its pass is shared."""
    return teacher if isinstance(teacher, SelfTeacher) else SelfTeacher()


def require_one_way(teacher_model: Any, teachers: Any) -> None:
    """Raises where both of them say who teaches, the second does not map names to teachers, or a mapping is of no kind."""
    if teachers is None:
        read_kind(teacher_model)
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
    for name, one in teachers.items():
        with said_of(name):
            read_kind(one)


def _is_the_base(teacher: Teacher) -> bool:
    """Whether all that a teacher says is what the student's own frozen base says."""
    if isinstance(teacher, CacheTeacher):
        return all(one.get("kind") == part_name(SelfTeacher) for one in teacher.reader.teachers.values())
    several = teacher.parts.values()
    return all(map(_is_the_base, several)) if several else isinstance(teacher, SelfTeacher)


def require_fitting(teacher: Teacher, terms: Mapping[str, Any]) -> None:
    """Raises ValueError where a term cannot be computed, or its tokens not weighed, from what a teacher gives."""
    for role, term in terms.items():
        needs = () if term.token_weights is None else term.token_weights.needs
        if "teacher" in needs and "reference" in needs and _is_the_base(teacher):
            raise ValueError(
                f"{role}_token_weights={part_name(term.token_weights)!r}: the teacher is the student's own base, from which it "
                f"nowhere differs, so every token would count alike. Name a teacher, or set {role}_token_weights='uniform'."
            )
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


def require_documents(teacher: Teacher, args: Any) -> None:
    """Raises ValueError where a teacher, or one behind it, reads documents, and batches hold pieces or do not say where one ends."""
    named = next((one for one in (teacher, *teacher.behind) if one.by_document), None)
    if named is not None:
        unknown = f"so the teacher ({named.name}) could not tell whose prompt it reads"
        require_whole_documents("teacher_model", args, unknown)


def require_sides_read(teacher: Teacher, args: Any) -> None:
    """Raises ValueError where the contrast needs sides that no teachers say, or has a threshold to say what they say."""
    level, threshold = args.contrastive_level, args.contrastive_false_negative_threshold
    if teacher.sided and threshold is not None and level in DECIDED:
        raise ValueError(
            f"contrastive_false_negative_threshold={threshold:g} would be ignored: at contrastive_level={level!r} the teachers "
            f"({teacher.name}) say which documents are on one side. Leave it out, or use contrastive_level='token' or 'sequence'."
        )
    if not teacher.sided and level == "state" and args.may_be_on("contrastive"):
        raise ValueError(
            f"contrastive_level='state': one teacher ({teacher.name}) does not say which prompts are on one side, so it is not "
            "known what to part. Give several, as teachers={'refuse': ..., 'answer': None} with a column `teacher`, or a soft "
            "route; or use contrastive_level='decision'."
        )
