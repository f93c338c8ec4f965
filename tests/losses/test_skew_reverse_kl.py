# SPDX-License-Identifier: Apache-2.0
"""Skew reverse KL. `reference` is the formula of its docstring; the contracts compare against it."""

import math

import pytest
import torch

from hf_ckt.losses.reverse_kl import ReverseKLLoss
from hf_ckt.losses.skew_reverse_kl import SkewReverseKLLoss
from tests.losses.loops import kl, mix, softmax


def reference(target: list[float], prediction: list[float], temperature: float = 1.0, alpha: float = 0.1) -> float:
    p, q = softmax(target, temperature), softmax(prediction, temperature)
    return temperature**2 * kl(q, mix(q, p, alpha))


@pytest.mark.parametrize("alpha", [0.01, 0.5])
def test_skew_reverse_kl_is_bounded_where_plain_kl_is_not(alpha):
    """Mixed with the wrong distribution, the skew would bound nothing and a single token could blow up the step."""
    apart = torch.tensor([[400.0, -400.0], [-400.0, 400.0]], dtype=torch.float64).log_softmax(-1)
    value = SkewReverseKLLoss(alpha=alpha).divergence(apart, apart.flip(0))
    assert value.tolist() == pytest.approx([-math.log(alpha)] * 2)
    assert ReverseKLLoss().divergence(apart, apart.flip(0)).min() > 700


@pytest.mark.parametrize("alpha", [0.0, 0.7])
def test_skew_reverse_kl_equals_its_loop_at_other_alphas(alpha):
    """`alpha` is a share of one particular side; at 0 it is the plain divergence."""
    target, prediction = [0.3, -1.0, 2.0], [1.0, 0.5, -0.5]
    rows = [torch.tensor([row], dtype=torch.float64).log_softmax(-1) for row in (target, prediction)]
    value = SkewReverseKLLoss(alpha=alpha).divergence(*rows).item()
    assert value == pytest.approx(reference(target, prediction, alpha=alpha), rel=1e-12)
