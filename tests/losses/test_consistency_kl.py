# SPDX-License-Identifier: Apache-2.0
"""Consistency KL. `reference` is the formula of its docstring; the contracts compare against it."""

import torch

from hf_ckt.losses.consistency_kl import ConsistencyKLLoss
from hf_ckt.views import LogitsView, TokenViews
from tests.losses.loops import kl, softmax

MOVES_TARGET = False


def held_inputs(role: str) -> set[str]:
    """The clean view is a constant where it is the target, and so is the head as far as it makes that view."""
    return {"student", "weight", "bias"} if role == "consistency" else set()


def reference(target: list[float], prediction: list[float], temperature: float = 1.0) -> float:
    p, q = softmax(target, temperature), softmax(prediction, temperature)
    return temperature**2 * kl(p, q)


def test_consistency_kl_gradient_is_the_noisy_minus_the_clean_distribution():
    """With a gradient into the clean view, the model could become consistent by forgetting what it knows."""
    torch.manual_seed(0)
    clean, noisy = torch.randn(2, 4, 7, dtype=torch.float64).requires_grad_().unbind()
    views = TokenViews(torch.zeros(4).long(), LogitsView(clean), noisy=LogitsView(noisy))
    total = ConsistencyKLLoss().per_token(views).sum()
    into_clean, into_noisy = torch.autograd.grad(total, [clean, noisy], allow_unused=True)
    assert into_clean is None
    torch.testing.assert_close(into_noisy, noisy.softmax(-1) - clean.softmax(-1))
