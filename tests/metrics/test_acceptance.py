# SPDX-License-Identifier: Apache-2.0
"""Acceptance rate. `reference` is the formula of its docstring; the contracts compare against it."""

import math

import torch

from hf_ckt.losses.total_variation import TotalVariationLoss
from hf_ckt.metrics.acceptance import AcceptanceMetric
from hf_ckt.views import LogitsView, TokenViews
from tests.losses.loops import on_shared, softmax
from tests.metrics.two_tokens import two_tokens


def reference(row: dict[str, list[float]], label: int) -> float:
    teacher, student = map(softmax, on_shared(row, "teacher", "student"))
    return math.fsum(map(min, teacher, student))


def test_acceptance_and_total_variation_add_up_to_one():
    """The card reports both; numbers that contradict each other would come from two vocabularies or temperatures."""
    torch.manual_seed(0)
    student, teacher = torch.randn(5, 7, dtype=torch.float64), torch.randn(5, 9, dtype=torch.float64)
    views = TokenViews(torch.zeros(5).long(), LogitsView(student), teacher=LogitsView(teacher))
    both = AcceptanceMetric().per_token(views) + TotalVariationLoss().per_token(views)
    torch.testing.assert_close(both, torch.ones(5, dtype=torch.float64))


def test_acceptance_equals_values_by_hand():
    """Two tokens, so that a swapped view or a wrong axis shows."""
    expected = torch.tensor([0.75, 0.8], dtype=torch.float64)
    torch.testing.assert_close(AcceptanceMetric().per_token(two_tokens()), expected, rtol=1e-12, atol=1e-12)
