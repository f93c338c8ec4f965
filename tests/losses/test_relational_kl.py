# SPDX-License-Identifier: Apache-2.0
"""Relational KL. `reference` is the formula of its docstring; the contracts compare against it."""

import torch

from hf_ckt.losses.relational_kl import RelationalKLLoss
from hf_ckt.views import Similarities
from tests.losses.loops import kl, softmax


def reference(student_row: list[float], teacher_row: list[float], positive: int, temperature: float = 0.1) -> float:
    return kl(softmax(teacher_row, temperature), softmax(student_row, temperature))


def test_relational_kl_is_zero_where_the_student_is_the_teacher():
    """A term that cannot reach 0 pulls a perfect student away from its teacher."""
    torch.manual_seed(0)
    same = torch.rand(5, 8, dtype=torch.float64, requires_grad=True)
    value = RelationalKLLoss().per_anchor(Similarities(same, same.detach(), torch.arange(5)))
    assert value.abs().max() < 1e-14
    (gradient,) = torch.autograd.grad(value.sum(), same)
    assert gradient.abs().max() < 1e-13


def test_relational_kl_moves_only_the_student():
    """A gradient into the teacher's row would change the target instead of the student."""
    rows = torch.rand(2, 3, 4, dtype=torch.float64)
    student = rows[0].clone().requires_grad_()
    value = RelationalKLLoss(temperature=0.5).per_anchor(Similarities(student, rows[1], torch.arange(3)))
    (gradient,) = torch.autograd.grad(value.sum(), student)
    expected = ((student / 0.5).softmax(-1) - (rows[1] / 0.5).softmax(-1)) / 0.5
    torch.testing.assert_close(gradient, expected.detach())
