# SPDX-License-Identifier: Apache-2.0
"""Shared tokens by name, the others by rank. `reference` is the formula of its docstring, where all are shared."""

import pytest
import torch

from hf_ckt.kernels.mapped_view import MappedView, SharedTokens
from hf_ckt.losses.universal_logit import UniversalLogitLoss
from hf_ckt.views import LogitsView, TokenViews
from tests.losses.loops import kl, softmax


def reference(target: list[float], prediction: list[float], temperature: float = 1.0) -> float:
    p, q = softmax(target, temperature), softmax(prediction, temperature)
    return temperature**2 * kl(p, q)


def views(teacher: list[float], student: list[float], student_ids: list[int], teacher_ids: list[int]) -> TokenViews:
    """One position at which nothing is moved, of probabilities by id."""
    label, nothing = torch.tensor([student_ids[0]]), torch.tensor([-1])
    p, q = (LogitsView(torch.tensor([side], dtype=torch.float64).log()) for side in (teacher, student))
    shared = SharedTokens(torch.tensor(student_ids), torch.tensor(teacher_ids))
    return TokenViews(label, q, teacher=MappedView(p, shared, nothing, torch.zeros(1), label, len(student)))


def test_universal_logit_counted_by_hand():
    """Ranked among all tokens, or compared by id where there is no name in common, it would pull at the wrong ones."""
    # Shared: the student's 0 and 3 are the teacher's 4 and 1. Others: teacher 0.1, 0.3, 0.2; student 0.3, 0.2.
    case = views([0.1, 0.25, 0.3, 0.2, 0.15], [0.4, 0.3, 0.2, 0.1], [0, 3], [4, 1])
    buckets = kl([0.15, 0.25, 0.6], [0.4, 0.1, 0.5])
    ranks = abs(0.3 - 0.3) + abs(0.2 - 0.2) + abs(0.1 - 0.0)
    for weight in (0.0, 1.0, 2.5):
        value = UniversalLogitLoss(unmatched_weight=weight).per_token(case)
        assert value.item() == pytest.approx(buckets + weight * ranks, rel=1e-12)


def test_unmatched_tokens_are_compared_by_rank_and_not_by_id():
    """The same probabilities under other ids are at no distance: that is all that two vocabularies can be held to."""
    case = views([0.1, 0.5, 0.3, 0.1], [0.5, 0.1, 0.1, 0.3], [0], [1])
    assert UniversalLogitLoss().per_token(case).item() == pytest.approx(0, abs=1e-14)
