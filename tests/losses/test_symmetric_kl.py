# SPDX-License-Identifier: Apache-2.0
"""Symmetric KL. What the contracts do not hold already."""

import torch

from hf_ckt.losses.symmetric_kl import SymmetricKLLoss


def test_symmetric_kl_is_symmetric():
    """Counting one direction twice gives the right value at small noise and the wrong one where it matters."""
    torch.manual_seed(0)
    p, q = torch.randn(2, 6, 9, dtype=torch.float64).log_softmax(-1)
    torch.testing.assert_close(SymmetricKLLoss().divergence(p, q), SymmetricKLLoss().divergence(q, p))
