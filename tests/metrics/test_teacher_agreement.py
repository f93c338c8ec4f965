# SPDX-License-Identifier: Apache-2.0
"""Agreement with the teacher. `reference` is the formula of its docstring; the contracts compare against it."""

import torch

from hf_ckt.metrics.teacher_agreement import TeacherAgreementMetric
from hf_ckt.views import LogitsView, TokenViews
from tests.losses.loops import on_shared
from tests.metrics.two_tokens import two_tokens


def reference(row: dict[str, list[float]], label: int) -> float:
    teacher, student = on_shared(row, "teacher", "student")
    return float(teacher.index(max(teacher)) == student.index(max(student)))


def top_k_reference(row: dict[str, list[float]], named: dict[int, float], label: int) -> float:
    student = row["student"]
    return float(max(named, key=named.__getitem__, default=-1) == student.index(max(student)))


def test_teacher_agreement_leaves_padded_ids_out():
    """A teacher's surplus id that happens to lead can never be agreed with."""
    student, teacher = torch.tensor([[0.0, 2.0], [2.0, 0.0]]), torch.tensor([[0.0, 1.0, 9.0], [0.0, 1.0, 9.0]])
    views = TokenViews(torch.zeros(2).long(), LogitsView(student), teacher=LogitsView(teacher))
    assert TeacherAgreementMetric().per_token(views).tolist() == [1.0, 0.0]


def test_teacher_agreement_equals_values_by_hand():
    """Two tokens, so that a swapped view or a wrong axis shows."""
    expected = torch.tensor([0.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(TeacherAgreementMetric().per_token(two_tokens()), expected, rtol=1e-12, atol=1e-12)
