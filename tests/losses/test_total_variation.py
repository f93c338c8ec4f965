# SPDX-License-Identifier: Apache-2.0
"""Total variation. What the contracts do not hold already."""

import pytest
import torch

from hf_ckt.losses.total_variation import TotalVariationLoss


def test_total_variation_reaches_one_and_no_more():
    """Without the half it would reach 2 and count double against every other term."""
    apart = torch.tensor([[60.0, -60.0], [-60.0, 60.0]], dtype=torch.float64).log_softmax(-1)
    assert TotalVariationLoss().divergence(apart, apart.flip(0)).tolist() == pytest.approx([1.0, 1.0])
    torch.manual_seed(0)
    p, q = (30 * torch.randn(2, 500, 8, dtype=torch.float64)).log_softmax(-1)
    assert TotalVariationLoss().divergence(p, q).max() <= 1 + 1e-12
