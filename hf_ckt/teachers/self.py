# SPDX-License-Identifier: Apache-2.0
"""The student's own frozen base as the teacher."""

from transformers import PreTrainedModel

from ..models._upstream import adapters_disabled
from ..models.backbone import frozen, read_head, run_backbone
from ..models.batch import Batch
from ..views import TeacherSignal
from .base import Teacher


class SelfTeacher(Teacher):
    """
    The student's own backbone with its adapters switched off: no weights beyond the student's.

    Source: Li and Hoiem 2016 (learning without forgetting), https://huggingface.co/papers/1606.09282, with PEFT's
    switchable adapters in place of a copy.
    Related: [`ModelTeacher`] teaches what the base does not know.
    """

    def signal(self, batch: Batch, student: PreTrainedModel) -> TeacherSignal:
        with frozen(student), adapters_disabled(student):
            hidden = batch.keep(run_backbone(student, batch.inputs).last_hidden_state)
            with read_head(student) as head:
                return TeacherSignal(hidden, head.detach())
