# SPDX-License-Identifier: Apache-2.0
"""The variants of `python examples/benchmarks/objective.py`: that they compute one thing, by how many products, and what is wrong is seen."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cases import OBJECTIVE_VARIANTS, ObjectiveCase
from objective_variants import (
    MAKERS,
    TOLERANCES,
    dense_result,
    disagreements,
    objective_inputs,
    reference_result,
    relative_errors,
    why_skipped,
)

# More positions than a tile has, so that a tensor of all logits is told from a tile.
CASE = ObjectiveCase(300, 16, 64)
UNCOMPILED = ("hf_ckt_plain", "dense", "trl")


class Watch(TorchDispatchMode):
    """Counts the products with a head, and finds the largest tensor made."""

    def __init__(self):
        super().__init__()
        self.products, self.rows, self.largest = 0, 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        returned = function(*args, **(kwargs or {}))
        if function.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.addmm_):
            self.products += 1
            self.rows += returned.shape[0]
        for one in returned if isinstance(returned, (tuple, list)) else [returned]:
            if isinstance(one, torch.Tensor):
                self.largest = max(self.largest, one.numel())
        return returned


def watch(name, case=CASE):
    call = MAKERS[name](objective_inputs(case))
    with Watch() as seen:
        call()
    return seen


def test_every_variant_is_described_and_can_be_made():
    """A variant without a line in the table is one that nobody knows how to read."""
    assert MAKERS.keys() == OBJECTIVE_VARIANTS.keys()


def test_reference_is_the_three_losses_and_their_gradients():
    """All variants are held to it: its own mistake would be agreed on."""
    inputs = objective_inputs(ObjectiveCase(6, 4, 9))
    wide = [one.detach().double() for one in inputs[:5]]
    student, noisy = wide[0].requires_grad_(), wide[1].requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for i, label in enumerate(inputs.labels):
        clean = torch.log_softmax(wide[3] @ student[i], 0)
        target = torch.log_softmax(wide[4] @ wide[2][i], 0)
        other = torch.log_softmax(wide[3] @ noisy[i], 0)
        total = total - clean[label] + (target.exp() * (target - clean)).sum()
        total = total + 0.5 * (clean.detach().exp() * (clean.detach() - other)).sum()
    truth = (total / 6, *torch.autograd.grad(total / 6, (student, noisy)))
    assert max(relative_errors(reference_result(inputs), truth).values()) < 1e-5


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", UNCOMPILED)
def test_variant_agrees_with_the_reference(name, dtype):
    """A wrong order of a peer's arguments gives the reverse divergence, at the same speed."""
    inputs = objective_inputs(ObjectiveCase(300, 16, 64, dtype))
    reference = reference_result(inputs)
    errors = {"dense": relative_errors(dense_result(inputs), reference)}
    errors[name] = relative_errors(MAKERS[name](inputs)(), reference)
    assert disagreements(errors, dtype) == []


@pytest.mark.parametrize(
    "fault",
    [
        lambda loss, student, noisy: (loss * 1.01, student, noisy),
        lambda loss, student, noisy: (loss, student * 0.99, noisy),
        lambda loss, student, noisy: (loss, student, noisy * 2),
        lambda loss, student, noisy: (loss, student, torch.zeros_like(noisy)),
        lambda loss, student, noisy: (loss * float("nan"), student, noisy),
        lambda loss, student, noisy: (loss, student.roll(1, 0), noisy),
    ],
)
def test_wrong_result_is_a_disagreement(fault):
    """A variant that is fast because it is wrong would win the table."""
    inputs = objective_inputs(CASE)
    reference = reference_result(inputs)
    right = dense_result(inputs)
    errors = {"dense": relative_errors(right, reference), "trl": relative_errors(fault(*right), reference)}
    found = disagreements(errors, "float32")
    assert len(found) == 1 and found[0].startswith("trl: ")


def test_wrong_reference_does_not_excuse_the_others():
    """In half precision twice the error of dense is allowed: a broken dense would allow everything."""
    wrong = {"loss": 0.9, "student_gradient": 0.9, "noisy_gradient": float("nan")}
    assert len(disagreements({"dense": wrong}, "bfloat16")) == 3
    fine = dict.fromkeys(wrong, TOLERANCES["bfloat16"])
    assert disagreements({"dense": fine}, "bfloat16") == []


def test_hf_ckt_multiplies_as_many_rows_as_the_floor_in_fewer_products():
    """A projection that is done twice is a third more of the time, and no loss value shows it."""
    ours, floor = watch("hf_ckt_plain"), watch("floor")
    assert ours.products < floor.products  # views of one head together
    assert ours.rows == floor.rows == 5 * CASE.tokens
    assert watch("dense").products == 5
    assert watch("trl").rows > 2 * ours.rows


def test_hf_ckt_builds_no_tensor_of_all_logits():
    """One N x V tensor among the tiles would undo what the tiles are for."""
    logits = CASE.tokens * CASE.vocab
    assert watch("dense").largest == logits
    assert watch("hf_ckt_plain").largest < logits
    assert watch("floor").largest < logits


def test_inputs_are_the_same_each_time_and_neither_flat_nor_one_hot():
    """Flat softmaxes have no gradient to disagree in, one-hot ones overflow; other inputs each run cannot be compared."""
    case = ObjectiveCase(50, 32, 500)
    first, second = objective_inputs(case), objective_inputs(case)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    logits = first.student.detach() @ first.head.t()
    assert 2 < logits.std() < 3
    assert not first.head.requires_grad and not first.teacher.requires_grad


def test_liger_is_skipped_with_a_reason_without_a_gpu():
    """A missing row looks like a peer that was not thought of."""
    assert why_skipped("liger", CASE) == "its kernels need a GPU"
    assert why_skipped("trl", CASE) is None
