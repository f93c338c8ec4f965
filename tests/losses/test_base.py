# SPDX-License-Identifier: Apache-2.0
"""The base of the divergences."""

import pytest

from hf_ckt.losses.base import PAIRS
from hf_ckt.losses.forward_kl import ForwardKLLoss
from hf_ckt.losses.jensen_shannon import JensenShannonLoss


def test_divergence_without_role_takes_the_losss_first():
    """Comparing the wrong two views is a loss that falls and means something else."""
    assert JensenShannonLoss().role == "distillation"
    assert JensenShannonLoss().needs == {"teacher", "student"}
    assert JensenShannonLoss(role="consistency").needs == {"student", "noisy"}
    assert JensenShannonLoss(role="robust_consistency").needs == {"teacher", "noisy"}
    assert PAIRS["robust_consistency"] == ("teacher", "noisy")  # target, prediction


def test_divergence_of_an_unknown_role_names_the_nearest():
    """A misspelt role would otherwise fail deep within a step."""
    with pytest.raises(ValueError, match=r"role: unknown name 'distilation'. Did you mean 'distillation'\?"):
        ForwardKLLoss(role="distilation")
