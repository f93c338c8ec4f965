# SPDX-License-Identifier: Apache-2.0
"""The contract that teachers keep."""

from abc import ABC, abstractmethod

from transformers import PreTrainedModel

from ..models.batch import Batch
from ..views import TeacherSignal


class Teacher(ABC):
    """Supplies the distribution that the student is compared with."""

    @abstractmethod
    def signal(self, batch: Batch, student: PreTrainedModel) -> TeacherSignal:
        """
        Reads a batch.

        Args:
            batch ([`~models.batch.Batch`]):
                Inputs and kept positions.
            student (`PreTrainedModel`):
                The student's causal language model, unwrapped, called from within its own forward.

        Returns:
            [`~views.TeacherSignal`]: hidden states at the kept positions and the head, without gradient.
        """
