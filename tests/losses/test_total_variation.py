# SPDX-License-Identifier: Apache-2.0
"""Total variation. `reference` is the formula of its docstring; the contracts compare against it."""

import math

import pytest
import torch

from hf_ckt.losses.total_variation import TotalVariationLoss
from tests.losses.loops import softmax

# Its gradient is a sign, which rounding decides where the two distributions are equal.
SMOOTH_AT_EQUALITY = False


def reference(target: list[float], prediction: list[float], temperature: float = 1.0) -> float:
    p, q = softmax(target, temperature), softmax(prediction, temperature)
    return math.fsum(abs(a - b) for a, b in zip(p, q, strict=True)) / 2


def test_total_variation_reaches_one_and_no_more():
    """Without the half it would reach 2 and count double against every other term."""
    apart = torch.tensor([[60.0, -60.0], [-60.0, 60.0]], dtype=torch.float64).log_softmax(-1)
    assert TotalVariationLoss().divergence(apart, apart.flip(0)).tolist() == pytest.approx([1.0, 1.0])
    torch.manual_seed(0)
    p, q = (30 * torch.randn(2, 500, 8, dtype=torch.float64)).log_softmax(-1)
    assert TotalVariationLoss().divergence(p, q).max() <= 1 + 1e-12
