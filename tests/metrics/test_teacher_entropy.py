# SPDX-License-Identifier: Apache-2.0
"""Teacher entropy. `reference` is the formula of its docstring; the contracts compare against it."""

import math

import torch

from hf_ckt.metrics.teacher_entropy import TeacherEntropyMetric
from hf_ckt.views import LogitsView, TokenViews
from tests.losses.loops import softmax
from tests.metrics.two_tokens import two_tokens


def reference(row: dict[str, list[float]], label: int) -> float:
    return -math.fsum(p * math.log(p) for p in softmax(row["teacher"]))


def test_teacher_entropy_is_the_teachers():
    """Read from the student it would say that the teacher becomes surer as the student trains."""
    uniform, sure = torch.zeros(1, 4), torch.tensor([[50.0, 0.0, 0.0, 0.0]])
    views = TokenViews(torch.tensor([0]), LogitsView(sure), teacher=LogitsView(uniform))
    assert abs(TeacherEntropyMetric().per_token(views).item() - math.log(4)) < 1e-6


def test_teacher_entropy_equals_values_by_hand():
    """Two tokens, so that a swapped view or a wrong axis shows."""
    expected = torch.tensor(
        [-(0.5 * math.log(0.25) + 0.5 * math.log(0.5)), -(0.6 * math.log(0.6) + 0.4 * math.log(0.2))],
        dtype=torch.float64,
    )
    torch.testing.assert_close(TeacherEntropyMetric().per_token(two_tokens()), expected, rtol=1e-12, atol=1e-12)
