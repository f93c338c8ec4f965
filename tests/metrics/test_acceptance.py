# SPDX-License-Identifier: Apache-2.0
"""Acceptance rate. What the contracts do not hold already."""

import torch

from hf_ckt.losses.total_variation import TotalVariationLoss
from hf_ckt.metrics.acceptance import AcceptanceMetric
from hf_ckt.views import LogitsView, TokenViews


def test_acceptance_and_total_variation_add_up_to_one():
    """The card reports both; numbers that contradict each other would come from two vocabularies or temperatures."""
    torch.manual_seed(0)
    student, teacher = torch.randn(5, 7, dtype=torch.float64), torch.randn(5, 9, dtype=torch.float64)
    views = TokenViews(torch.zeros(5).long(), LogitsView(student), teacher=LogitsView(teacher))
    both = AcceptanceMetric().per_token(views) + TotalVariationLoss().per_token(views)
    torch.testing.assert_close(both, torch.ones(5, dtype=torch.float64))
