# SPDX-License-Identifier: Apache-2.0
"""Several teachers, each on its own rows."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from transformers import PreTrainedModel

from ..checks import said_of
from ..kernels.signals import RoutedSignal, SignalPart, signal_parts
from ..models.batch import Batch
from .base import Teacher, TeacherSetup


class RoutedTeacher(Teacher):
    """
    Lets each document hear the teacher that its row names: one that knows what to refuse for harmful prompts, say, and the
    frozen base for all others, so that nothing moves where nothing should.

    Each teacher reads its own documents only, under padding, padding-free batches and packing alike.

    Source: this package's own; Furlanello et al. 2018, https://huggingface.co/papers/1805.04770, and You et al. 2017 mix
    several teachers on every row.
    Related: [`ModelTeacher`] and [`SelfTeacher`] teach on every row.

    Args:
        teachers (`Mapping[str, Teacher]`):
            By the names that the column `teacher` gives; rows without one hear the first.
        same_passes (`bool`, *optional*, defaults to `False`):
            Whether a teacher without documents reads one that does not count: ranks that share sharded weights must make
            the same passes.
    """

    def __init__(self, teachers: Mapping[str, Teacher], same_passes: bool = False):
        self.teachers, self.same_passes = dict(teachers), same_passes
        self.name = ", ".join(f"{name}: {teacher.name}" for name, teacher in self.teachers.items())
        self.unknown = {index: token for teacher in self.teachers.values() for index, token in teacher.unknown.items()}
        lossy = [teacher for teacher in self.teachers.values() if teacher.lossy]
        self.lossy = bool(lossy)
        self.sided = len(self.teachers) > 1 or any(teacher.sided for teacher in self.teachers.values())
        self.gives = ", ".join(dict.fromkeys(teacher.gives for teacher in lossy))

    @classmethod
    def load(cls, source: Any, setup: TeacherSetup) -> "RoutedTeacher":  # type: ignore[override]
        """
        Args:
            source (`Mapping`):
                From a name to what `teacher_model` takes.
            setup ([`~teachers.base.TeacherSetup`]):
                The run's.

        Raises:
            ValueError: If there is no teacher, or one is itself routed.
        """
        if not isinstance(source, Mapping) or not source:
            raise ValueError(
                f"teachers: must map names to teachers, got {source!r}, so no row could be given one. For example "
                "{'safety': 'org/a-model', 'base': None}."
            )
        teachers = {}
        for name, one in source.items():
            with said_of(str(name)):
                teachers[str(name)] = setup.build(one)
        for name, teacher in teachers.items():
            if teacher.parts:
                raise ValueError(
                    f"teachers: {name!r} is itself several teachers, and a row names only one. List them all in one mapping."
                )
        return cls(teachers, same_passes=setup.sharded)

    def signal(self, batch: Batch, student: PreTrainedModel) -> RoutedSignal:
        found = []
        for number, (name, teacher) in enumerate(self.teachers.items()):
            own, positions = batch.of_route(number)
            read = self._read(teacher, own, positions, batch, student)
            found += [part._replace(teacher=name, sides=self._sides[name]) for part in read]
        return RoutedSignal(tuple(found))

    @cached_property
    def _sides(self) -> dict[str, tuple[int, ...]]:
        """By name the number of the side that a teacher stands for, or the two of a mixture: who is in both stands for one."""
        known: list[dict[str, Any]] = []

        def number(teacher: Teacher) -> int:
            manifest = teacher.manifest()
            if manifest not in known:
                known.append(manifest)
            return known.index(manifest)

        return {name: tuple(map(number, teacher.voices)) for name, teacher in self.teachers.items()}

    def _read(
        self, teacher: Teacher, own: Batch, positions: torch.Tensor, batch: Batch, student: PreTrainedModel
    ) -> list[SignalPart]:
        if len(positions):
            parts = signal_parts(teacher.signal(own, student), len(positions))
            return [part._replace(positions=positions[part.positions.to(positions.device)]) for part in parts]
        if self.same_passes:
            passed, counted = batch.of_documents(batch.numbered(batch.documents.index.flatten()[:1]))
            parts = signal_parts(teacher.signal(passed, student), len(counted))
            return [SignalPart("", positions, part.signal.select(positions)) for part in parts]
        if teacher.lossy:
            return []
        return [
            part._replace(positions=positions[:0]) for part in signal_parts(teacher.silence(student), len(positions))
        ]

    def facts(self) -> dict[str, Any]:
        # The order is a fact of its own: the first teaches rows that name none, and a queue's states lie side by side in it.
        return {
            "teachers": {name: teacher.manifest() for name, teacher in self.teachers.items()},
            "order": [*self.teachers],
        }

    @property
    def log_names(self) -> list[str]:
        return [f"{count}/{name}" for name, teacher in self.teachers.items() for count in teacher.log_names]

    def take_counts(self, like: torch.Tensor) -> dict[str, torch.Tensor]:
        return {
            f"{count}/{name}": value
            for name, teacher in self.teachers.items()
            for count, value in teacher.take_counts(like).items()
        }

    @property
    def parts(self) -> dict[str, Teacher]:
        return self.teachers
