# SPDX-License-Identifier: Apache-2.0
"""The contract checks fail when the fault that they are there for is put into the source."""

import inspect
import types

import pytest
import torch

from hf_ckt.kernels import chunked_linear, head_products
from hf_ckt.losses import base
from hf_ckt.losses.consistency_kl import ConsistencyKLLoss
from hf_ckt.losses.forward_kl import ForwardKLLoss
from hf_ckt.losses.jensen_shannon import JensenShannonLoss
from hf_ckt.losses.nll import NLLLoss
from hf_ckt.losses.reverse_kl import ReverseKLLoss
from tests.contracts import token_checks as checks


def check_stacked_views(loss) -> None:
    """Gradients of two students that share a head and lie one below the other in a full tile."""
    case = checks.make_case(positions=8, masked=()).requiring("student", "noisy")
    losses = {NLLLoss(): 1.0, ConsistencyKLLoss(): 0.7}
    expected = torch.autograd.grad(checks.dense_total(case, losses), (case.student, case.noisy))
    found = torch.autograd.grad(checks.run(case, losses, chunk_size=4).total, (case.student, case.noisy))
    for one, truth in zip(found, expected, strict=True):
        torch.testing.assert_close(one, truth)


# name -> text of kernels/chunked_linear.py or head_products.py, what stands there instead, the check that hears it
SOURCE_FAULTS = {
    "masked positions are projected": (
        "    kept = (labels != -100).nonzero().squeeze(1)\n",
        "    kept, labels = torch.arange(labels.shape[0]), labels.clamp(min=0)\n",
        checks.check_masked_positions_do_not_matter,
    ),
    "sums hold the last tile alone": (
        "sums += _run_blocks(",
        "sums = _run_blocks(",
        checks.check_split_batch_adds_up,
    ),
    "head gradient holds the last tile alone": (
        'grads["weight"].addmm_(',
        'grads["weight"].zero_().addmm_(',
        checks.check_gradients_equal_dense,
    ),
    "bias gradient holds the last tile alone": (
        'grads["bias"] += logits',
        'grads["bias"] = logits',
        checks.check_gradients_equal_dense,
    ),
    "outer gradient is forgotten": (
        "scale = grad_total / ctx.num_items",
        "scale = 1 / ctx.num_items",
        checks.check_outer_gradient,
    ),
    "num_items is ignored in the value": (
        ".sum() / plan.num_items, sums",
        ".sum() / max(len(plan.labels), 1), sums",
        checks.check_value,
    ),
    "num_items is ignored in the gradient": (
        "scale = grad_total / ctx.num_items",
        "scale = grad_total / 1.0",
        checks.check_gradients_equal_dense,
    ),
    "nothing is divided by nothing": (
        "num_items=num_items + (num_items == 0),",
        "num_items=num_items,",
        checks.check_all_masked_is_zero_and_connected,
    ),
    "last tile is dropped": (
        "range(0, plan.labels.shape[0], plan.sizes.tile)",
        "range(0, plan.labels.shape[0] - plan.sizes.tile + 1, plan.sizes.tile)",
        checks.check_value,
    ),
    "stacked gradients are mixed up": (
        "zip(names, products, strict=True)",
        "zip(reversed(names), products, strict=True)",
        check_stacked_views,
    ),
    "last block is dropped": (
        "range(0, labels.shape[0], sizes.block)",
        "range(0, labels.shape[0] - sizes.block, sizes.block)",
        checks.check_value,
    ),
}


def with_fault(original: str, fault: str) -> types.ModuleType:
    """The runner's module with one text replaced, in it or in the products that it calls."""
    sources = {module: inspect.getsource(module) for module in (chunked_linear, head_products)}
    assert sum(source.count(original) for source in sources.values()) == 1, (
        f"the source has changed: name the fault in its new words ({original!r})"
    )
    runner, products = (_executed(module, source.replace(original, fault)) for module, source in sources.items())
    runner.group_by_head = products.group_by_head
    return runner


def _executed(original: types.ModuleType, source: str) -> types.ModuleType:
    module = types.ModuleType(original.__name__)
    module.__package__ = original.__package__
    exec(compile(source, "faulty source", "exec"), vars(module))
    return module


@pytest.mark.parametrize("name", SOURCE_FAULTS)
def test_fault_in_the_source_is_caught(name, monkeypatch):
    """A check that a broken runner passes holds nothing."""
    original, fault, check = SOURCE_FAULTS[name]
    check(ForwardKLLoss())
    monkeypatch.setattr(checks, "tiles", with_fault(original, fault))
    with pytest.raises(AssertionError):
        check(ForwardKLLoss())


def _half_the_square(self, views):
    target, prediction = views.pair(*base.PAIRS[self.role], self.temperature)
    return self.divergence(target, prediction) * self.temperature


LOSS_FAULTS = {
    "squared temperature is forgotten": (
        (base.Divergence, "squared_temperature", False),
        ForwardKLLoss(temperature=2.5),
        [checks.check_value, checks.check_gradient_against_differences],
    ),
    "temperature enters once": (
        (base.Divergence, "per_token", _half_the_square),
        ReverseKLLoss(temperature=2.5),
        [checks.check_value, checks.check_gradient_against_differences],
    ),
    "temperature is squared where it must not be": (
        (JensenShannonLoss, "squared_temperature", True),
        JensenShannonLoss(temperature=2.5),
        [checks.check_value],
    ),
    "direction is turned around": (
        (ForwardKLLoss, "divergence", lambda self, p, q: base.kl_divergence(q, p)),
        ForwardKLLoss(),
        [checks.check_value, checks.check_gradient_against_differences],
    ),
    "clean target learns": (
        (ConsistencyKLLoss, "detach_target", False),
        ConsistencyKLLoss(),
        [checks.check_clean_view_is_detached],
    ),
    "a cross-entropy is called a KL": (
        (ForwardKLLoss, "divergence", lambda self, p, q: -(p.exp() * q).sum(-1)),
        ForwardKLLoss(),
        [checks.check_zero_at_equality, checks.check_value],
    ),
    "a sum over the tile couples its tokens": (
        (ForwardKLLoss, "divergence", lambda self, p, q: base.kl_divergence(p, q).cumsum(0)),
        ForwardKLLoss(),
        [checks.check_split_batch_adds_up, checks.check_order_does_not_matter, checks.check_value],
    ),
}


@pytest.mark.parametrize("name", LOSS_FAULTS)
def test_fault_in_a_loss_is_caught(name, monkeypatch):
    """Losses of the wrong size or direction still go down in training."""
    patch, loss, found_by = LOSS_FAULTS[name]
    for check in found_by:
        check(loss)
    monkeypatch.setattr(*patch)
    for check in found_by:
        with pytest.raises(AssertionError):
            check(loss)
