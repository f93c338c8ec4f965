# SPDX-License-Identifier: Apache-2.0
"""Any teacher, behind a prompt that the student does not see."""

import hashlib
from typing import Any

from transformers import PreTrainedModel

from ..kernels.signals import Signal
from ..models.batch import Batch
from .base import Teacher, TeacherSetup


class PrivilegedContextTeacher(Teacher):
    """
    Teaches the student to answer without a prompt as the teacher answers with it: rules, examples or the solution itself.

    The teacher reads the same answers behind prompts of its own, given by `teacher_system_prompt`, by `system_prompt` here
    or row by row in a column `teacher_prompt`; its distributions are compared with the student's at the same answer tokens.

    Source: Askell et al. 2021 (context distillation), https://huggingface.co/papers/2112.00861, and Snell et al. 2022,
    https://huggingface.co/papers/2209.15189. Differs: full distributions on the data's own answers, and any teacher.
    Related: [`SelfTeacher`] is what it wraps by default, which then teaches nothing but its context.

    Args:
        inner ([`~teachers.base.Teacher`]):
            That reads.
        system_prompt (`str`, *optional*):
            What it reads as the system message, of rows without a prompt of their own for it. The dataset's preparation
            puts it there.
    """

    def __init__(self, inner: Teacher, system_prompt: str | None = None):
        if inner.parts or inner.by_document or isinstance(inner, PrivilegedContextTeacher):
            raise ValueError(
                f"teacher_model: privileged_context wraps one teacher, got {inner.name}, and of several each would need a "
                "context of its own. Wrap those of them that read one, each in its place."
            )
        self.inner, self.system_prompt = inner, system_prompt
        self.name = f"{inner.name}, with a context of its own"
        self.unknown, self.lossy, self.gives, self.sided = inner.unknown, inner.lossy, inner.gives, inner.sided

    @classmethod
    def load(  # type: ignore[override]
        cls, source: Any, setup: TeacherSetup, *, system_prompt: str | None = None
    ) -> "PrivilegedContextTeacher":
        """
        Args:
            source (`Any`):
                What `teacher_model` takes: the teacher that reads the context.
            setup ([`~teachers.base.TeacherSetup`]):
                The run's.
            system_prompt (`str`, *optional*):
                The system message that it reads. None: the column `teacher_prompt` says what it reads.

        Raises:
            ValueError: If the teacher is itself several, or has a context already.
        """
        return cls(setup.build(source), system_prompt)

    def signal(self, batch: Batch, student: PreTrainedModel) -> Signal:
        if batch.context is None:
            raise ValueError(
                "privileged_context: a batch holds no context for the teacher, which would read what the student reads and "
                "teach nothing. Let the trainer prepare the dataset and collate it."
            )
        if len(batch.context.kept) != len(batch.kept):
            raise ValueError(
                f"privileged_context: the teacher has {len(batch.context.kept)} answer tokens in its context and the student "
                f"{len(batch.kept)}, so they would be compared at other words. Let the trainer prepare the dataset."
            )
        return self.inner.signal(batch.context, student)

    def facts(self) -> dict[str, Any]:
        text = self.system_prompt
        # The prompt itself may be nobody else's business; that it is another one shows all the same.
        digest = {} if text is None else {"context": prompt_digest(text)}
        return {"name": self.name, **digest, "teacher": self.inner.manifest()}

    @property
    def behind(self) -> list[Teacher]:
        return [self.inner]


def prompt_digest(text: str) -> str:
    """Returns what tells a system prompt from another one without saying it."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
