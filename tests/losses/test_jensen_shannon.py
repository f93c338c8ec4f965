# SPDX-License-Identifier: Apache-2.0
"""Jensen-Shannon. `reference` is the formula of its docstring; the contracts compare against it."""

import math

import pytest
import torch

from hf_ckt.losses.base import log_mixture
from hf_ckt.losses.jensen_shannon import JensenShannonLoss
from tests.losses.loops import kl, mix, softmax


def reference(target: list[float], prediction: list[float], temperature: float = 1.0, beta: float = 0.5) -> float:
    p, q = softmax(target, temperature), softmax(prediction, temperature)
    mixture = mix(p, q, beta)
    return beta * kl(p, mixture) + (1 - beta) * kl(q, mixture)


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_jensen_shannon_reaches_the_entropy_of_beta_and_no_more(beta):
    """A loss that leaves its bound lets a few tokens outweigh all others, which is what it was chosen to avoid."""
    bound = -beta * math.log(beta) - (1 - beta) * math.log(1 - beta)
    apart = torch.tensor([[60.0, -60.0], [-60.0, 60.0]], dtype=torch.float64).log_softmax(-1)
    loss = JensenShannonLoss(beta=beta)
    assert loss.divergence(apart, apart.flip(0)).tolist() == pytest.approx([bound, bound], rel=1e-9)
    assert bound <= math.log(2)
    torch.manual_seed(0)
    p, q = (30 * torch.randn(2, 500, 8, dtype=torch.float64)).log_softmax(-1)
    assert loss.divergence(p, q).max() <= bound + 1e-12


@pytest.mark.parametrize("beta", [0.2, 0.7])
def test_jensen_shannon_equals_its_loop_at_other_betas(beta):
    """`beta` is the target's share: exchanged with the prediction's it is unseen at the default 0.5."""
    target, prediction = [0.3, -1.0, 2.0], [1.0, 0.5, -0.5]
    rows = [torch.tensor([row], dtype=torch.float64).log_softmax(-1) for row in (target, prediction)]
    value = JensenShannonLoss(beta=beta).divergence(*rows).item()
    assert value == pytest.approx(reference(target, prediction, beta=beta), rel=1e-12)


def test_log_mixture_ends_are_exact():
    """log(0) at a share of 0 or 1 would turn the mixture into NaN."""
    p, q = torch.randn(2, 3, 5, dtype=torch.float64).log_softmax(-1)
    assert torch.equal(log_mixture(p, q, 0.0), q)
    assert torch.equal(log_mixture(p, q, 1.0), p)
    torch.testing.assert_close(log_mixture(p, q, 0.3).exp(), 0.3 * p.exp() + 0.7 * q.exp())
