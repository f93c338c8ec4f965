# SPDX-License-Identifier: Apache-2.0
"""InfoNCE. `reference` is the formula of its docstring; the contracts compare against it."""

import math

import pytest
import torch

from hf_ckt.losses.info_nce import InfoNCELoss
from hf_ckt.views import Similarities
from tests.losses.loops import softmax


def reference(
    student_row: list[float],
    teacher_row: list[float],
    positive: int,
    temperature: float = 0.1,
    false_negative_threshold: float = 0.95,
) -> float:
    candidates = [j for j in range(len(student_row)) if j == positive or teacher_row[j] <= false_negative_threshold]
    shares = softmax([student_row[j] for j in candidates], temperature)
    return -math.log(shares[candidates.index(positive)])


def test_info_nce_leaves_out_what_the_teacher_calls_the_same():
    """Pushing the student away from a candidate that says the same teaches it to contradict its teacher."""
    student = torch.tensor([[0.2, 0.9, 0.1]], dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([[1.0, 0.96, 0.3]], dtype=torch.float64)
    value = InfoNCELoss(temperature=0.5).per_anchor(Similarities(student, teacher, torch.tensor([0])))
    expected = math.log(1 + math.exp((0.1 - 0.2) / 0.5))  # of candidates 0 and 2 alone
    assert value.item() == pytest.approx(expected)
    (gradient,) = torch.autograd.grad(value.sum(), student)
    assert gradient[0, 1] == 0 and gradient[0, 0] < 0 < gradient[0, 2]


def test_info_nce_keeps_the_positive_that_exceeds_the_threshold():
    """The teacher is always the same as itself: masked by its own threshold, the loss would be infinite."""
    teacher = torch.ones(2, 3)
    value = InfoNCELoss().per_anchor(Similarities(torch.zeros(2, 3), teacher, torch.tensor([0, 2])))
    assert value.tolist() == [0.0, 0.0]


def test_info_nce_threshold_of_one_keeps_every_candidate():
    """The documented way to switch the mask off must not lose the exact duplicates."""
    loss = InfoNCELoss(false_negative_threshold=1)
    value = loss.per_anchor(Similarities(torch.zeros(1, 4), torch.ones(1, 4), torch.tensor([1])))
    assert value.item() == pytest.approx(math.log(4))


def test_info_nce_leaves_out_those_that_are_said_to_be_on_its_side():
    """By their cosines alone two refusals in other words would be pushed apart, and two sides that sound alike left."""
    student = torch.tensor([[0.2, 0.9, 0.1]], dtype=torch.float64)
    teacher = torch.tensor([[1.0, 0.1, 0.99]], dtype=torch.float64)
    side = torch.tensor([[False, True, False]])  # the own position stays, whatever is said of it
    value = InfoNCELoss(temperature=0.5).per_anchor(Similarities(student, teacher, torch.tensor([0]), side))
    assert value.item() == pytest.approx(math.log(1 + math.exp((0.1 - 0.2) / 0.5)))


def test_info_nce_temperature_goes_with_the_number_of_candidates():
    """The docstring's way to choose it: a positive of cosine 0.4 has half of the softmax against 55 negatives of 0."""
    student = torch.zeros(1, 56, dtype=torch.float64)
    student[0, 0] = 0.4
    value = InfoNCELoss().per_anchor(Similarities(student, torch.zeros(1, 56), torch.tensor([0])))
    assert value.item() == pytest.approx(math.log(2), abs=0.01)


def test_info_nce_of_one_side_is_exactly_zero_and_connected():
    """A batch of refusals alone must train nothing, and neither be NaN nor cut the graph."""
    student = torch.rand(3, 4, dtype=torch.float64, requires_grad=True)
    given = Similarities(student, torch.zeros(3, 4), torch.arange(3), torch.ones(3, 4, dtype=torch.bool))
    value = InfoNCELoss().per_anchor(given)
    assert value.tolist() == [0.0, 0.0, 0.0]
    assert torch.autograd.grad(value.sum(), student)[0].abs().max() == 0
