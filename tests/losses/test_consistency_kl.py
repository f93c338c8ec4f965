# SPDX-License-Identifier: Apache-2.0
"""Consistency KL. What the contracts do not hold already."""

import torch

from hf_ckt.losses.consistency_kl import ConsistencyKLLoss
from hf_ckt.views import LogitsView, TokenViews


def test_consistency_kl_gradient_is_the_noisy_minus_the_clean_distribution():
    """With a gradient into the clean view, the model could become consistent by forgetting what it knows."""
    torch.manual_seed(0)
    clean, noisy = torch.randn(2, 4, 7, dtype=torch.float64).requires_grad_().unbind()
    views = TokenViews(torch.zeros(4).long(), LogitsView(clean), noisy=LogitsView(noisy))
    total = ConsistencyKLLoss().per_token(views).sum()
    into_clean, into_noisy = torch.autograd.grad(total, [clean, noisy], allow_unused=True)
    assert into_clean is None
    torch.testing.assert_close(into_noisy, noisy.softmax(-1) - clean.softmax(-1))
