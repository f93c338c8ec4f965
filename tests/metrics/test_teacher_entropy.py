# SPDX-License-Identifier: Apache-2.0
"""Teacher entropy. What the contracts do not hold already."""

import math

import torch

from hf_ckt.metrics.teacher_entropy import TeacherEntropyMetric
from hf_ckt.views import LogitsView, TokenViews


def test_teacher_entropy_is_the_teachers():
    """Read from the student it would say that the teacher becomes surer as the student trains."""
    uniform, sure = torch.zeros(1, 4), torch.tensor([[50.0, 0.0, 0.0, 0.0]])
    views = TokenViews(torch.tensor([0]), LogitsView(sure), teacher=LogitsView(uniform))
    assert abs(TeacherEntropyMetric().per_token(views).item() - math.log(4)) < 1e-6
