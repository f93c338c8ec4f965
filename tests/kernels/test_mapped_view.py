# SPDX-License-Identifier: Apache-2.0
"""Buckets of two vocabularies, with numbers that can be added by hand."""

import pytest
import torch

from hf_ckt.kernels.mapped_view import MappedView, SharedTokens
from hf_ckt.kernels.signals import MappedSignal, TokenPaths
from hf_ckt.views import LinearHead, LogitsView

# Shared: the student's 1 and 2 are the teacher's 3 and 0. The teacher has 1, 2 and 4 alone, the student 0 and 3.
SHARED = SharedTokens(torch.tensor([1, 2]), torch.tensor([3, 0]))
TEACHER, STUDENT = [0.2, 0.1, 0.05, 0.4, 0.25], [0.1, 0.2, 0.3, 0.4]


def view(label: int, first: int, chance: float) -> MappedView:
    whole = LogitsView(torch.tensor([TEACHER], dtype=torch.float64).log())
    later = torch.tensor([chance], dtype=torch.float64).log()
    return MappedView(whole, SHARED, torch.tensor([first]), later, torch.tensor([label]), len(STUDENT))


CASES = {
    # label, first, chance of the later tokens: the teacher's buckets, the student's.
    "nothing moved": ((1, -1, 1.0), [0.4, 0.2, 0.0, 0.4], [0.2, 0.3, 0.0, 0.5]),
    "a span of a shared and a further token": ((0, 3, 0.5), [0.2, 0.2, 0.2, 0.4], [0.2, 0.3, 0.1, 0.4]),
    "a span that begins with one of its own": ((3, 4, 0.2), [0.4, 0.2, 0.05, 0.35], [0.2, 0.3, 0.4, 0.1]),
    "a longer token in place of a shared one": ((2, 1, 1.0), [0.4, 0.3, 0.0, 0.3], [0.2, 0.3, 0.0, 0.5]),
    "a shared token in place of another": ((2, 3, 0.25), [0.3, 0.3, 0.0, 0.4], [0.2, 0.3, 0.0, 0.5]),
}


@pytest.mark.parametrize("name", list(CASES))
def test_probability_is_moved_and_none_is_lost(name):
    """Buckets that do not add up to 1 make every divergence wrong by a constant that nobody sees."""
    given, teacher, student = CASES[name]
    found = view(*given)
    other = LogitsView(torch.tensor([STUDENT], dtype=torch.float64).log())
    expected = torch.tensor([teacher], dtype=torch.float64)
    torch.testing.assert_close(found.probs(), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        found.buckets_of(other).exp(), torch.tensor([student], dtype=torch.float64), rtol=1e-12, atol=1e-12
    )
    assert found.buckets_of(other).isfinite().all() and found.log_probs().isfinite().all()
    label = torch.tensor([given[0]])
    place = {1: 0, 2: 1}.get(given[0], 2)
    assert found.log_prob_of(label, 4).exp().item() == pytest.approx(teacher[place], rel=1e-12)


def test_most_probable_tokens_are_named_by_the_students_ids():
    """The teacher's ids would agree with the student's by chance alone."""
    assert view(1, -1, 1.0).top().tolist() == [1]
    assert view(0, 3, 0.8).top().tolist() == [0]  # 0.32 of 0.4 is moved to the student's own token
    assert view(0, 3, 0.5).top().tolist() == [-1]  # 0.25 of a token that the student does not have is the highest
    assert view(1, -1, 1.0).most_probable(2, 4).tolist() == [[1, 2]]


def test_another_temperature_is_refused():
    """The chance of a span at it would be that of temperature 1."""
    with pytest.raises(ValueError, match=r"temperature=2: .*at temperature 1 only"):
        view(1, -1, 1.0).log_probs(2.0)


def test_a_vocabulary_without_an_own_token_has_a_gradient_that_is_finite():
    """The logarithm of an empty sum is minus infinity, and its gradient NaN."""
    logits = torch.randn(1, 2, dtype=torch.float64, requires_grad=True)
    shared = SharedTokens(torch.tensor([0, 1]), torch.tensor([1, 0]))
    both = MappedView(
        LogitsView(torch.zeros(1, 2, dtype=torch.float64)),
        shared,
        torch.tensor([-1]),
        torch.zeros(1),
        torch.tensor([0]),
        2,
    )
    both.buckets_of(LogitsView(logits)).sum().backward()
    assert logits.grad.isfinite().all()


def test_signal_is_cut_by_position():
    """Paths left behind in the order of another part would be those of other tokens."""
    paths = TokenPaths(torch.tensor([3, -1, 4]), torch.tensor([-1.0, 0.0, -2.0]), SHARED)
    signal = MappedSignal(torch.arange(6.0).view(3, 2), LinearHead(torch.ones(5, 2)), paths).select(
        torch.tensor([2, 0])
    )
    assert signal.hidden.tolist() == [[4, 5], [0, 1]]
    assert signal.paths.first.tolist() == [4, 3] and signal.paths.later.tolist() == [-2, -1]
    assert signal.paths.shared is SHARED
