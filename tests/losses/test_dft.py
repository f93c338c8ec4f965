# SPDX-License-Identifier: Apache-2.0
"""Dynamic fine-tuning. `reference` is the formula of its docstring; the contracts compare against it."""

import math

import torch
import torch.nn.functional as F

from hf_ckt.losses.dft import DFTLoss
from hf_ckt.views import LogitsView, TokenViews
from tests.losses.loops import softmax


def reference(row: dict[str, list[float]], label: int) -> float:
    probability = softmax(row["student"])[label]
    return -probability * math.log(probability)


def held_inputs(role: str) -> set[str]:
    """The weight is a constant for the gradient, and every input of the student's prediction moves it."""
    return {"student", "weight", "bias"}


def test_dft_gradient_is_the_weighed_one_of_nll():
    """With the weight in the graph, the loss would also push improbable tokens down to escape them."""
    torch.manual_seed(0)
    logits = torch.randn(6, 9, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 9, (6,))
    (found,) = torch.autograd.grad(DFTLoss().per_token(TokenViews(labels, LogitsView(logits))).sum(), logits)
    (plain,) = torch.autograd.grad(F.cross_entropy(logits, labels, reduction="sum"), logits)
    weight = logits.detach().softmax(-1).gather(1, labels[:, None])
    torch.testing.assert_close(found, weight * plain)
