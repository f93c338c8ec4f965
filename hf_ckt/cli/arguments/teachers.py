# SPDX-License-Identifier: Apache-2.0
"""Who teaches, as a command line or a run file says it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...discovery import part_names
from .models import require_model, require_there

# Kinds whose source is, or may be, a model's or an adapter's name.
_MODELS = ("model", "adapter", "privileged_context")


@dataclass
class TeacherArguments:
    """The teachers' flags; their weights in the loss and their other settings are fields of `ContrastiveRobustConfig`."""

    teacher_model_name_or_path: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "Hub id or folder of the teacher, a model or an adapter with the student's tokenizer. None: the "
            "student's own frozen base, which needs `--use_peft`. Or a mapping with a kind of teacher and its settings, e.g. "
            '{"model": "org/name", "revision": "v1", "load_in_4bit": true}; `hf-ckt parts --family teachers` lists them.'
        },
    )
    teachers: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "In place of one teacher several, by the names that the column `teacher` of the data set gives to its "
            "rows, each what --teacher_model_name_or_path takes, null for the student's own base, e.g. "
            '{"safety": "org/name", "base": null}. Rows that name none hear the first.'
        },
    )
    teacher_load_in_4bit: bool = field(
        default=False,
        metadata={
            "help": "Load the teacher in 4 bits; type, compute dtype and nesting are those of the student's bnb flags. Of "
            "several teachers it holds for each that does not say otherwise."
        },
    )
    teacher_load_in_8bit: bool = field(
        default=False, metadata={"help": "Load the teacher in 8 bits; else as --teacher_load_in_4bit."}
    )

    def __post_init__(self) -> None:
        self.teacher_model_name_or_path = _read("teacher_model_name_or_path", self.teacher_model_name_or_path)
        self.teachers = _read("teachers", self.teachers)
        if isinstance(self.teachers, Mapping):
            # A name that YAML takes for a number is a text in the data.
            self.teachers = {str(name): one for name, one in self.teachers.items()}
        if self.teacher_load_in_4bit and self.teacher_load_in_8bit:
            raise ValueError(
                "teacher_load_in_4bit and teacher_load_in_8bit: one model has one precision, and both are set. "
                "Leave one out."
            )
        for name in ("teacher_load_in_4bit", "teacher_load_in_8bit"):
            if getattr(self, name) and not self.given:
                raise ValueError(
                    f"{name}: there is no teacher to quantize, so it would be ignored. Name one with "
                    "--teacher_model_name_or_path, or quantize the student, which then is its own teacher, with "
                    f"--{name.removeprefix('teacher_')}."
                )

    @property
    def given(self) -> bool:
        """Whether anybody but the student's own base was named."""
        return self.teacher_model_name_or_path is not None or self.teachers is not None

    def require_there(self) -> None:
        """Raises where what is named is neither there nor may be a Hub id, or says nothing that a teacher could be made of."""
        from ...training.teachers import require_one_way

        require_teacher("teacher_model_name_or_path", self.teacher_model_name_or_path)
        require_one_way(self.teacher_model_name_or_path, self.teachers)
        if isinstance(self.teachers, Mapping):
            for name, one in self.teachers.items():
                require_teacher(f"teachers, {name}", one)


def require_teacher(option: str, given: Any) -> None:
    """
    Checks the names of models and folders in what a teacher is made of, those of a teacher within a teacher too.

    Args:
        option (`str`):
            Where it was given, for messages.
        given (`Any`):
            A Hub id or folder, or a mapping with the name of a kind among its keys.
    """
    if isinstance(given, str):
        require_model(option, given)
    elif isinstance(given, Mapping):
        for kind in part_names("teachers"):
            source = given.get(kind)
            if kind == "routed" and isinstance(source, Mapping):
                for name, one in source.items():
                    require_teacher(f"{option}, {name}", one)
            elif kind == "soft_route" and isinstance(source, str):
                require_there(
                    f"{option}, {kind}", source, "Write a probe with `hf-ckt fit-probe`, and give its folder."
                )
                for name in ("refuse", "answer"):
                    require_teacher(f"{option}, {name}", given.get(name))
            elif isinstance(source, str):
                (require_model if kind in _MODELS else require_there)(f"{option}, {kind}", source)
            else:
                require_teacher(f"{option}, {kind}", source)


def _read(name: str, given: Any) -> Any:
    """A mapping that stands as JSON on the command line; anything else as it is."""
    if not isinstance(given, str) or not given.startswith("{"):
        return given
    try:
        return json.loads(given)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{name}: is not JSON ({error.msg}, column {error.colno}): {given!r:.80}. Write '{{\"key\": value}}'."
        ) from error
