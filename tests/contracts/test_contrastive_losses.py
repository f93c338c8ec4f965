# SPDX-License-Identifier: Apache-2.0
"""What every contrastive loss keeps, whatever its file."""

import copy
import pickle
from dataclasses import replace

import pytest
import torch

from hf_ckt.discovery import load_part, part_names, part_settings
from hf_ckt.losses.base import ContrastiveLoss
from hf_ckt.views import Similarities
from tests.contracts.documentation import check_documentation
from tests.contracts.own_test import reference_of
from tests.contracts.settings import check_wrong_settings_raise

NAMES = [name for name in part_names("losses") if issubclass(load_part("losses", name), ContrastiveLoss)]
each_loss = pytest.mark.parametrize("name", NAMES)


def make_similarities(anchors: int = 5, candidates: int = 8, seed: int = 0, *, sided: bool = False) -> Similarities:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = 2 * torch.rand(2, anchors, candidates, generator=generator, dtype=torch.float64) - 1
    positive = torch.randperm(candidates, generator=generator)[:anchors]
    teacher.scatter_(1, positive[:, None], 1.0)
    teacher[0, int(positive[0]) - 1] = 0.99  # a false negative
    sides = torch.randint(0, 2, (candidates,), generator=generator)
    return Similarities(student, teacher, positive, sides[positive][:, None] == sides[None] if sided else None)


@each_loss
@pytest.mark.parametrize("temperature", [0.1, 0.7])
def test_contrastive_loss_equals_its_formula(name, temperature):
    """A wrong denominator still falls during training."""
    cls = load_part("losses", name)
    reference = reference_of(cls)
    loss, similarities = cls(temperature=temperature), make_similarities()
    settings = {setting: getattr(loss, setting) for setting in part_settings(cls)}
    found = loss.per_anchor(similarities)
    for i, value in enumerate(found.tolist()):
        rows = similarities.student_teacher[i].tolist(), similarities.teacher_teacher[i].tolist()
        expected = reference(*rows, int(similarities.positive[i]), **settings)
        assert value == pytest.approx(expected, rel=1e-10, abs=1e-12)


@each_loss
def test_contrastive_loss_reads_sides_as_the_cosines_that_would_say_them(name):
    """Where sides are known they take the place of the threshold, or are not read at all: nothing in between."""
    loss, given = load_part("losses", name)(), make_similarities(sided=True)
    found = loss.per_anchor(given)
    if not hasattr(loss, "false_negative_threshold"):
        expected = loss.per_anchor(replace(given, same_side=None))
    else:
        said = torch.where(given.same_side, 0.99, 0.0).to(given.teacher_teacher)
        expected = loss.per_anchor(replace(given, teacher_teacher=said, same_side=None))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@each_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_contrastive_loss_of_one_side_is_finite_and_connected(dtype, name):
    """A batch of refusals alone comes now and then: a logarithm of nothing would end the run."""
    given = make_similarities()
    student, teacher = (one.to(dtype) for one in (given.student_teacher, given.teacher_teacher))
    alike = torch.ones_like(student, dtype=torch.bool)
    student.requires_grad_()
    value = load_part("losses", name)().per_anchor(Similarities(student, teacher, given.positive, alike))
    (slope,) = torch.autograd.grad(value.sum(), student)
    assert value.dtype == dtype and value.isfinite().all() and slope.isfinite().all()


@each_loss
@pytest.mark.parametrize("sided", [False, True])
def test_contrastive_loss_passes_gradcheck(sided, name):
    """The gradient to the student's similarities, false negatives included."""
    loss, similarities = load_part("losses", name)(temperature=0.5), make_similarities(3, 5, sided=sided)

    def total(student: torch.Tensor) -> torch.Tensor:
        return loss.per_anchor(replace(similarities, student_teacher=student))

    assert torch.autograd.gradcheck(total, (similarities.student_teacher.requires_grad_(),))


@each_loss
@pytest.mark.parametrize("sided", [False, True])
def test_contrastive_loss_ignores_the_order_of_anchors_and_candidates(sided, name):
    """A positive looked up at the wrong place trains the student towards another token."""
    loss, plain = load_part("losses", name)(), make_similarities(sided=sided)
    rows, columns = torch.tensor([3, 0, 4, 1, 2]), torch.tensor([5, 2, 7, 0, 1, 6, 4, 3])
    moved = Similarities(
        plain.student_teacher[rows][:, columns],
        plain.teacher_teacher[rows][:, columns],
        columns.argsort()[plain.positive[rows]],
        plain.same_side[rows][:, columns] if sided else None,
    )
    torch.testing.assert_close(loss.per_anchor(moved), loss.per_anchor(plain)[rows])


@each_loss
def test_contrastive_loss_is_never_negative(name):
    """Both are minus the logarithm of a share, or a divergence: below 0, a sign or a mask is wrong."""
    for seed in range(20):
        for sided in (False, True):
            assert load_part("losses", name)().per_anchor(make_similarities(seed=seed, sided=sided)).min() >= 0


@each_loss
def test_contrastive_loss_survives_copy_and_pickle(name):
    """A setting lost on the way falls back to its default."""
    loss = load_part("losses", name)(temperature=0.3)
    for again in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert repr(again) == repr(loss)
        assert torch.equal(again.per_anchor(make_similarities()), loss.per_anchor(make_similarities()))


@each_loss
def test_contrastive_loss_documents_itself_and_refuses_wrong_settings(name):
    """A NaN temperature is found at once here, or after an hour as a NaN loss."""
    check_documentation(load_part("losses", name))
    check_wrong_settings_raise(load_part("losses", name))
    with pytest.raises(ValueError, match=r"^temperature: must be greater than 0, got 0"):
        load_part("losses", name)(temperature=0)
