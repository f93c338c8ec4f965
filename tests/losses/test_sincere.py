# SPDX-License-Identifier: Apache-2.0
"""SINCERE. `reference` is the formula of its docstring; the contracts compare against it."""

import math

import pytest
import torch

from hf_ckt.losses.info_nce import InfoNCELoss
from hf_ckt.losses.sincere import SincereLoss
from hf_ckt.losses.supervised_contrastive import SupervisedContrastiveLoss
from hf_ckt.views import Similarities
from tests.losses.loops import softmax


def reference(
    student_row: list[float],
    teacher_row: list[float],
    positive: int,
    temperature: float = 0.1,
    false_negative_threshold: float = 0.95,
) -> float:
    count = len(student_row)
    own = [j for j in range(count) if j == positive or teacher_row[j] > false_negative_threshold]
    others = [j for j in range(count) if j not in own]
    return sum(-math.log(softmax([student_row[k] for k in [j, *others]], temperature)[0]) for j in own) / len(own)


def test_sincere_is_that_of_the_paper_by_hand():
    """With another positive in the sum it is the supervised contrastive loss, which this one is there to replace."""
    student = torch.tensor([[0.5, 0.3, -0.2, 0.1]], dtype=torch.float64)
    side = torch.tensor([[True, False, True, False]])
    value = SincereLoss(temperature=0.5).per_anchor(Similarities(student, student, torch.tensor([0]), side))
    others = math.exp(0.6) + math.exp(0.2)
    expected = (math.log(1 + others / math.exp(1.0)) + math.log(1 + others / math.exp(-0.4))) / 2
    assert value.item() == pytest.approx(expected, rel=1e-12)


def test_sincere_never_pushes_a_positive_away():
    """A student that already is its teacher would be drawn off it, towards the other documents of its side."""
    student = torch.tensor([[0.99, 0.2, 0.3, -0.5]], dtype=torch.float64, requires_grad=True)
    side = torch.tensor([[True, True, True, False]])
    given = Similarities(student, torch.zeros(1, 4), torch.tensor([0]), side)
    slopes = [
        torch.autograd.grad(loss.per_anchor(given).sum(), student)[0][0]
        for loss in (SincereLoss(), SupervisedContrastiveLoss())
    ]
    assert (slopes[0][:3] < 0).all() and slopes[0][3] > 0
    assert slopes[1][0] > 1  # as the other does


def test_sincere_of_one_side_is_exactly_zero_and_connected():
    """A batch of refusals alone must train nothing, and neither be NaN nor cut the graph."""
    student = torch.rand(3, 4, requires_grad=True)
    given = Similarities(student, torch.zeros(3, 4), torch.arange(3), torch.ones(3, 4, dtype=torch.bool))
    value = SincereLoss().per_anchor(given)
    assert value.tolist() == [0.0, 0.0, 0.0]
    assert torch.autograd.grad(value.sum(), student)[0].abs().max() == 0


def test_sincere_with_the_own_position_alone_is_info_nce():
    """Where nobody else is on an anchor's side, the two are one."""
    student = torch.rand(3, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    given = Similarities(student, torch.zeros(3, 5), torch.arange(3), torch.zeros(3, 5, dtype=torch.bool))
    torch.testing.assert_close(SincereLoss().per_anchor(given), InfoNCELoss().per_anchor(given))
