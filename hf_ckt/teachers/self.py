# SPDX-License-Identifier: Apache-2.0
"""The student's own frozen base as the teacher."""

from typing import Any

from transformers import PreTrainedModel

from ..kernels.signals import TeacherSignal
from ..models._upstream import adapters_disabled
from ..models.backbone import frozen, read_head, run_backbone
from ..models.batch import Batch
from ..models.frozen_base import why_no_frozen_base
from ..views import LinearHead
from .base import Teacher, TeacherSetup


class SelfTeacher(Teacher):
    """
    The student's own backbone with its adapters switched off: no weights beyond the student's.

    Source: Li and Hoiem 2016 (learning without forgetting), https://huggingface.co/papers/1606.09282, with PEFT's
    switchable adapters in place of a copy.
    Related: [`ModelTeacher`] teaches what the base does not know.
    """

    name = "the student's own base, adapters off"
    own_base = True

    @classmethod
    def load(cls, source: Any, setup: TeacherSetup) -> "SelfTeacher":  # type: ignore[override]
        """
        Args:
            source (`None`):
                There is none.
            setup ([`~teachers.base.TeacherSetup`]):
                The run's.

        Raises:
            ValueError: If the student with its adapters off is not the model that it started from.
        """
        missing = why_no_frozen_base(setup.causal_lm)
        if missing:
            raise ValueError(
                f"teacher_model: None is the student's own frozen base, but {missing}. Name a teacher instead."
            )
        return cls()

    def signal(self, batch: Batch, student: PreTrainedModel) -> TeacherSignal:
        with frozen(student), adapters_disabled(student):
            hidden = batch.keep(run_backbone(student, batch.inputs).last_hidden_state)
            with read_head(student) as head:
                return TeacherSignal(hidden, head.detach())

    def head(self, student: PreTrainedModel) -> LinearHead:
        with adapters_disabled(student), read_head(student) as head:
            return head.detach()
