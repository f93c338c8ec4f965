# SPDX-License-Identifier: Apache-2.0
"""Labels weighed by the teacher's confidence. `reference` is the formula of its docstring; the contracts compare against it."""

import math

import pytest
import torch

from hf_ckt.losses.trusted_nll import TrustedNLLLoss
from hf_ckt.views import LogitsView, TokenViews
from tests.losses.loops import on_shared, softmax


def reference(row: dict[str, list[float]], label: int, threshold: float | None = None) -> float:
    trust = softmax(on_shared(row, "teacher", "student")[0])[label]
    if threshold is not None:
        trust = float(trust >= threshold)
    return -trust * math.log(softmax(row["student"])[label])


def top_k_reference(row: dict[str, list[float]], named: dict[int, float], label: int) -> float:
    """Of a label that is not named no more is known than that it is neither above the rest nor above the least named."""
    rest = 1 - math.fsum(map(math.exp, named.values()))
    trust = math.exp(named[label]) if label in named else min([rest, *map(math.exp, named.values())])
    return -trust * math.log(softmax(row["student"])[label])


def views(student, teacher, labels) -> TokenViews:
    return TokenViews(torch.tensor(labels), student=LogitsView(student), teacher=LogitsView(teacher))


def test_trusted_nll_is_the_teachers_probability_times_nll():
    """By hand: student 1/4 each, teacher 0.7, 0.1, 0.1, 0.1."""
    teacher = torch.tensor([[0.7, 0.1, 0.1, 0.1]] * 3, dtype=torch.float64).log()
    given = views(torch.zeros(3, 4, dtype=torch.float64), teacher, [0, 1, 3])
    expected = torch.tensor([0.7, 0.1, 0.1], dtype=torch.float64) * math.log(4)
    torch.testing.assert_close(TrustedNLLLoss().per_token(given), expected)


@pytest.mark.parametrize(("threshold", "counts"), [(0.05, [1, 1, 1]), (0.5, [1, 0, 0]), (0.9, [0, 0, 0])])
def test_threshold_keeps_a_label_in_full_or_not_at_all(threshold, counts):
    """Weighed as well as cut, a label just above the threshold would hardly count."""
    teacher = torch.tensor([[0.7, 0.1, 0.1, 0.1]] * 3, dtype=torch.float64).log()
    given = views(torch.zeros(3, 4, dtype=torch.float64), teacher, [0, 1, 3])
    expected = torch.tensor(counts, dtype=torch.float64) * math.log(4)
    torch.testing.assert_close(TrustedNLLLoss(threshold).per_token(given), expected)


def test_trust_is_a_constant_for_the_gradient_and_ignores_a_padded_head():
    """A teacher padded with ids that no text has would trust every label less."""
    student = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    teacher = torch.randn(3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    padded = torch.cat([teacher, torch.full((3, 2), 5.0, dtype=torch.float64)], 1).requires_grad_()
    loss = TrustedNLLLoss().per_token(views(student, padded, [2, 0, 1]))
    torch.testing.assert_close(loss, TrustedNLLLoss().per_token(views(student, teacher, [2, 0, 1])))
    loss.sum().backward()
    assert padded.grad is None
    share = teacher.softmax(-1)[range(3), [2, 0, 1]]
    expected = share[:, None] * (student.softmax(-1) - torch.eye(4, dtype=torch.float64)[[2, 0, 1]])
    torch.testing.assert_close(student.grad, expected.detach())


@pytest.mark.parametrize("threshold", [0, 1, 1.5, -0.1])
def test_threshold_outside_its_range_raises(threshold):
    """At 0 or 1 every label counts, or none."""
    with pytest.raises(ValueError, match=r"^threshold: must lie in \(0, 1\)"):
        TrustedNLLLoss(threshold)


def test_a_label_that_the_teacher_does_not_have_counts_in_full():
    """A student with added tokens ended in an index error, or, distrusted, would never learn to say them."""
    student = torch.randn(2, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    teacher = torch.randn(2, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for threshold in (None, 0.9):
        loss = TrustedNLLLoss(threshold).per_token(views(student, teacher, [4, 5]))
        torch.testing.assert_close(loss, -student.log_softmax(-1)[[0, 1], [4, 5]])
