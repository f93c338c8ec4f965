# SPDX-License-Identifier: Apache-2.0
"""Symmetric KL. `reference` is the formula of its docstring; the contracts compare against it."""

import torch

from hf_ckt.losses.symmetric_kl import SymmetricKLLoss
from tests.losses.loops import kl, softmax

MOVES_TARGET = True


def reference(target: list[float], prediction: list[float], temperature: float = 1.0) -> float:
    p, q = softmax(target, temperature), softmax(prediction, temperature)
    return temperature**2 * (kl(p, q) + kl(q, p))


def test_symmetric_kl_is_symmetric():
    """Counting one direction twice gives the right value at small noise and the wrong one where it matters."""
    torch.manual_seed(0)
    p, q = torch.randn(2, 6, 9, dtype=torch.float64).log_softmax(-1)
    torch.testing.assert_close(SymmetricKLLoss().divergence(p, q), SymmetricKLLoss().divergence(q, p))
