# SPDX-License-Identifier: Apache-2.0
"""Means over all tokens of a logging window, and the guard against losses that are not finite."""

import math

import pytest
import torch
from accelerate import Accelerator

from hf_ckt.training.log_sums import LogSums, NonFiniteGuard


@pytest.fixture(scope="module")
def accelerator():
    return Accelerator(cpu=True)


def pair(total, count, dtype=torch.float32):
    return torch.tensor([total, count], dtype=dtype)


def test_means_are_over_all_that_was_counted(accelerator):
    """A mean of means would give the second batch of one token half of the weight."""
    sums = LogSums()
    sums.add({"task_loss": pair(6.0, 3), "acceptance": pair(1.0, 2)})
    sums.add({"task_loss": pair(10.0, 1)})
    assert sums.means(accelerator, ["task_loss", "acceptance", "absent"]) == {"task_loss": 4.0, "acceptance": 0.5}


def test_means_start_anew_after_each_log(accelerator):
    """Sums that linger smooth a curve until nothing shows in it."""
    sums = LogSums()
    sums.add({"task_loss": pair(6.0, 3)})
    sums.means(accelerator, ["task_loss"])
    assert sums.means(accelerator, ["task_loss"]) == {}
    sums.add({"task_loss": pair(5.0, 1)})
    assert sums.means(accelerator, ["task_loss"]) == {"task_loss": 5.0}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_skipped_batch_leaves_the_means_of_the_others(bad, accelerator):
    """One bad batch in a window of hundreds would leave NaN where its step was skipped and all others were good."""
    sums = LogSums(skip_nonfinite=True)
    sums.add({"task_loss": pair(6.0, 3), "acceptance": pair(1.0, 2)})
    sums.add({"task_loss": pair(bad, 5), "acceptance": pair(3.0, 2)})
    assert sums.means(accelerator, ["task_loss", "acceptance"]) == {"task_loss": 2.0, "acceptance": 1.0}
    sums = LogSums()
    sums.add({"task_loss": pair(bad, 3)})
    assert not math.isfinite(sums.means(accelerator, ["task_loss"])["task_loss"])  # an evaluation shows it


def test_long_windows_lose_nothing_to_rounding(accelerator):
    """In float32 a sum of 2^24 stops growing by single tokens."""
    sums = LogSums()
    sums.add({"num_tokens": pair(2**24, 1)})
    for _ in range(5):
        sums.add({"num_tokens": pair(1, 1)})
    assert sums.total(accelerator, "num_tokens") == 2**24 + 5
    assert sums.total(accelerator, "num_tokens") == 0


def test_sums_hold_no_graph(accelerator):
    """A sum with its graph would keep every step's activations until the next log."""
    sums = LogSums()
    sums.add({"task_loss": torch.ones(2, requires_grad=True) * 2})
    assert not sums._sums["task_loss"].requires_grad


class State:
    global_step = 4


class Optimizer:
    cleared = 0

    def zero_grad(self):
        self.cleared += 1


def check(guard, optimizer=None):
    guard.on_pre_optimizer_step(None, State(), None, optimizer=optimizer)


def test_guard_names_the_terms_and_the_step(accelerator):
    """`loss is nan` alone leaves the user to guess among five terms."""
    guard = NonFiniteGuard(accelerator, ["task_loss", "distillation_loss", "loss"], "raise")
    guard.watch({"task_loss": pair(1.0, 2), "distillation_loss": pair(1.0, 2), "loss": torch.tensor(1.0)})
    check(guard)
    guard.watch({"task_loss": pair(1.0, 2), "distillation_loss": pair(torch.inf, 2), "loss": torch.tensor(torch.nan)})
    guard.watch({"task_loss": pair(1.0, 2), "loss": torch.tensor(1.0)})  # a later micro-batch is fine again
    with pytest.raises(FloatingPointError, match=r"^distillation_loss, loss: not finite at step 5\. Stopped before"):
        check(guard)


def test_guard_skips_and_then_watches_on(accelerator, capsys):
    """A flag that stays up would skip the rest of the run."""
    forgotten = []
    guard = NonFiniteGuard(accelerator, ["loss"], "skip", on_skip=lambda: forgotten.append(True))
    optimizer = Optimizer()
    guard.watch({"loss": torch.tensor(torch.nan)})
    check(guard, optimizer)
    assert (optimizer.cleared, guard.skipped, len(forgotten)) == (1, 1, 1)
    assert "loss: not finite at step 5. Skipped that optimizer step (1 so far)" in capsys.readouterr().out
    guard.watch({"loss": torch.tensor(1.0)})
    check(guard, optimizer)
    check(guard, optimizer)  # nothing was watched: SFTTrainer's own path
    assert (optimizer.cleared, guard.skipped) == (1, 1)


def test_sums_are_kept_as_wide_as_the_device_allows():
    """Apple's GPUs have no float64: the first logged step would stop the run there."""
    from hf_ckt.training.log_sums import _widest

    assert _widest(torch.device("cpu")) == _widest(torch.device("cuda")) == torch.float64
    assert _widest(torch.device("mps")) == torch.float32
