# SPDX-License-Identifier: Apache-2.0
"""Agreement with the teacher. What the contracts do not hold already."""

import torch

from hf_ckt.metrics.teacher_agreement import TeacherAgreementMetric
from hf_ckt.views import LogitsView, TokenViews


def test_teacher_agreement_leaves_padded_ids_out():
    """A teacher's surplus id that happens to lead can never be agreed with."""
    student, teacher = torch.tensor([[0.0, 2.0], [2.0, 0.0]]), torch.tensor([[0.0, 1.0, 9.0], [0.0, 1.0, 9.0]])
    views = TokenViews(torch.zeros(2).long(), LogitsView(student), teacher=LogitsView(teacher))
    assert TeacherAgreementMetric().per_token(views).tolist() == [1.0, 0.0]
