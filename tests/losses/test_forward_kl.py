# SPDX-License-Identifier: Apache-2.0
"""Forward KL. `reference` is the formula of its docstring; the contracts compare against it."""

import torch
import torch.nn.functional as F

from hf_ckt.losses.forward_kl import ForwardKLLoss
from hf_ckt.views import LogitsView, TokenViews
from tests.losses.loops import kl, softmax


def reference(target: list[float], prediction: list[float], temperature: float = 1.0) -> float:
    p, q = softmax(target, temperature), softmax(prediction, temperature)
    return temperature**2 * kl(p, q)


def test_forward_kl_equals_kl_div():
    """The direction is the one that covers the teacher's mass; swapped, the loss still falls and trains another model."""
    torch.manual_seed(0)
    teacher, student = torch.randn(2, 6, 9, dtype=torch.float64)
    value = ForwardKLLoss().divergence(teacher.log_softmax(-1), student.log_softmax(-1))
    expected = F.kl_div(student.log_softmax(-1), teacher.softmax(-1), reduction="none").sum(-1)
    torch.testing.assert_close(value, expected)


def test_forward_kl_gradient_keeps_its_size_at_high_temperature():
    """Without temperature^2 a soft target's gradient vanishes as 1 / temperature^2 and the task term drowns it."""
    torch.manual_seed(0)
    teacher, student = torch.randn(2, 1, 7, dtype=torch.float64)
    student.requires_grad_()
    views = TokenViews(torch.tensor([0]), LogitsView(student), teacher=LogitsView(teacher))
    (gradient,) = torch.autograd.grad(ForwardKLLoss(temperature=1e5).per_token(views).sum(), student)
    # Hinton et al. 2015, eq. 4: in the limit it is the difference of the centred logits, divided by V.
    difference = (student - teacher).detach()
    torch.testing.assert_close(gradient, (difference - difference.mean()) / 7, rtol=1e-4, atol=1e-6)
