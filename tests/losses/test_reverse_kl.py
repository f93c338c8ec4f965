# SPDX-License-Identifier: Apache-2.0
"""Reverse KL. `reference` is the formula of its docstring; the contracts compare against it."""

import torch
import torch.nn.functional as F

from hf_ckt.losses.reverse_kl import ReverseKLLoss
from tests.losses.loops import kl, softmax


def reference(target: list[float], prediction: list[float], temperature: float = 1.0) -> float:
    p, q = softmax(target, temperature), softmax(prediction, temperature)
    return temperature**2 * kl(q, p)


def test_reverse_kl_equals_kl_div_swapped():
    """Swapped, it would be forward KL under another name."""
    torch.manual_seed(0)
    teacher, student = torch.randn(2, 6, 9, dtype=torch.float64)
    value = ReverseKLLoss().divergence(teacher.log_softmax(-1), student.log_softmax(-1))
    expected = F.kl_div(teacher.log_softmax(-1), student.softmax(-1), reduction="none").sum(-1)
    torch.testing.assert_close(value, expected)
