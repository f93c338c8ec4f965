# SPDX-License-Identifier: Apache-2.0
"""Supervised contrast. `reference` is the formula of its docstring; the contracts compare against it."""

import math

import pytest
import torch
import torch.nn.functional as F

from hf_ckt.losses.info_nce import InfoNCELoss
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
    shares = softmax(student_row, temperature)
    own = [j for j in range(len(student_row)) if j == positive or teacher_row[j] > false_negative_threshold]
    return sum(-math.log(shares[j]) for j in own) / len(own)


def test_supervised_contrastive_loss_is_that_of_the_paper_by_hand():
    """Divided by all candidates, or with the positives left out of the sum, it is another loss of the paper's."""
    student = torch.tensor([[0.5, 0.3, -0.2, 0.1]], dtype=torch.float64)
    side = torch.tensor([[True, False, True, False]])
    loss = SupervisedContrastiveLoss(temperature=0.5)
    value = loss.per_anchor(Similarities(student, torch.zeros_like(student), torch.tensor([0]), side))
    whole = math.log(math.exp(1.0) + math.exp(0.6) + math.exp(-0.4) + math.exp(0.2))
    assert value.item() == pytest.approx(((whole - 1.0) + (whole + 0.4)) / 2, rel=1e-12)


def test_supervised_contrastive_equals_cross_entropy_with_shares_of_the_side():
    """torch's cross-entropy with probabilities in place of labels, of which each positive has the same."""
    generator = torch.Generator().manual_seed(0)
    student = (2 * torch.rand(6, 11, generator=generator, dtype=torch.float64) - 1).requires_grad_()
    sides = torch.randint(0, 2, (11,), generator=generator)
    same = sides[:6, None] == sides[None]
    given = Similarities(student, torch.zeros(6, 11), torch.arange(6), same)
    value = SupervisedContrastiveLoss(temperature=0.2).per_anchor(given)
    shares = same.double() / same.sum(-1, keepdim=True)
    wanted = F.cross_entropy(student / 0.2, shares, reduction="none")
    torch.testing.assert_close(value, wanted, rtol=1e-12, atol=0)
    found = torch.autograd.grad(value.sum(), student)[0]
    torch.testing.assert_close(found, torch.autograd.grad(wanted.sum(), student)[0], rtol=1e-10, atol=1e-14)


def test_supervised_contrastive_pulls_to_its_side_what_info_nce_lets_go():
    """A second refusal that is pushed away teaches the student not to refuse."""
    student = torch.full((1, 3), 0.1, dtype=torch.float64, requires_grad=True)
    side = torch.tensor([[True, True, False]])
    given = Similarities(student, torch.zeros(1, 3), torch.tensor([0]), side)
    slopes = [
        torch.autograd.grad(loss.per_anchor(given).sum(), student)[0][0]
        for loss in (SupervisedContrastiveLoss(), InfoNCELoss())
    ]
    assert slopes[0][0] < 0 and slopes[0][1] < 0 < slopes[0][2]
    assert slopes[1][0] < 0 == slopes[1][1] < slopes[1][2]


def test_supervised_contrastive_of_one_side_asks_for_equal_similarities():
    """With nobody on the other side it must not pull anchors to one candidate: its least is where all are alike."""
    student = torch.tensor([[0.4, 0.4, 0.4], [0.5, 0.1, 0.1]], dtype=torch.float64, requires_grad=True)
    given = Similarities(student, torch.zeros(2, 3), torch.tensor([0, 1]), torch.ones(2, 3, dtype=torch.bool))
    value = SupervisedContrastiveLoss().per_anchor(given)
    assert value[0].item() == pytest.approx(math.log(3)) and value[1] > value[0]
    slope = torch.autograd.grad(value.sum(), student)[0]
    torch.testing.assert_close(slope[0], torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-12)
    assert slope[1, 0] > 0 > slope[1, 1]


def test_supervised_contrastive_threshold_of_one_is_info_nce_with_all_candidates():
    """The two differ only in what they do with an anchor's own side."""
    student = torch.rand(3, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    given = Similarities(student, torch.ones(3, 5), torch.arange(3))
    values = [loss(false_negative_threshold=1).per_anchor(given) for loss in (SupervisedContrastiveLoss, InfoNCELoss)]
    torch.testing.assert_close(*values)
