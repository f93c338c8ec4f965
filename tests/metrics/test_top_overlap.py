# SPDX-License-Identifier: Apache-2.0
"""Overlap of the most probable tokens. `reference` is the formula of its docstring; the contracts compare against it."""

import pytest
import torch

from hf_ckt.metrics.teacher_agreement import TeacherAgreementMetric
from hf_ckt.metrics.top_overlap import TopOverlapMetric
from hf_ckt.views import LogitsView, TokenViews
from tests.losses.loops import on_shared


def reference(row: dict[str, list[float]], label: int, k: int = 10) -> float:
    teacher, student = (
        set(sorted(range(len(logits)), key=logits.__getitem__)[-k:]) for logits in on_shared(row, "teacher", "student")
    )
    return len(teacher & student) / len(teacher)


def top_k_reference(row: dict[str, list[float]], named: dict[int, float], label: int, k: int = 10) -> float:
    """Of the first k that are named; the student's as many as a full row names."""
    teacher = sorted(named, key=named.__getitem__)[-k:]
    student = sorted(range(len(row["student"])), key=row["student"].__getitem__)[-min(k, row["k"]) :]
    return len({*teacher} & {*student}) / max(len(teacher), 1)


def _views(student: torch.Tensor, teacher: torch.Tensor) -> TokenViews:
    return TokenViews(torch.zeros(len(student)).long(), LogitsView(student), teacher=LogitsView(teacher))


def test_top_overlap_counts_ids_and_not_ranks():
    """Compared place by place, two models that swap their first and second choice would share nothing."""
    student = torch.tensor([[5.0, 4.0, 3.0, 2.0, 1.0], [5.0, 4.0, 3.0, 2.0, 1.0]])
    teacher = torch.tensor([[4.0, 5.0, 0.0, 1.0, 2.0], [1.0, 2.0, 3.0, 4.0, 5.0]])
    views = _views(student, teacher)
    # first three: {0, 1, 2} against {1, 0, 4} and {4, 3, 2}
    torch.testing.assert_close(TopOverlapMetric(k=3).per_token(views), torch.tensor([2 / 3, 1 / 3]))
    torch.testing.assert_close(TopOverlapMetric(k=2).per_token(views), torch.tensor([1.0, 0.0]))


def test_top_overlap_of_one_is_agreement():
    """Two numbers of one table that contradict each other would come from two vocabularies."""
    torch.manual_seed(0)
    views = _views(torch.randn(40, 4), torch.randn(40, 6))
    torch.testing.assert_close(TopOverlapMetric(k=1).per_token(views), TeacherAgreementMetric().per_token(views))


def test_top_overlap_leaves_out_ids_that_only_one_model_has():
    """A padded head's surplus ids would push shared ones out of the teacher's first ten."""
    student, teacher = torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([[3.0, 2.0, 1.0, 9.0, 8.0]])
    assert TopOverlapMetric(k=2).per_token(_views(student, teacher)) == 1


def test_top_overlap_of_a_small_vocabulary_is_of_all_of_it():
    """Divided by k, a model with fewer tokens than that could never agree with itself."""
    logits = torch.randn(3, 4)
    torch.testing.assert_close(TopOverlapMetric(k=10).per_token(_views(logits, -logits)), torch.ones(3))


def test_top_overlap_of_no_tokens_raises():
    """It would be 0 / 0 at every position."""
    with pytest.raises(ValueError, match="k: must be 1 or more, got 0"):
        TopOverlapMetric(k=0)
