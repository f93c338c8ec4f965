# SPDX-License-Identifier: Apache-2.0
"""Two gloo processes with a soft route against one."""

from types import SimpleNamespace

import pytest
import torch

from hf_ckt.teachers.soft_route import REFUSED
from tests.invariant import soft_route_ranks
from tests.processes import run_on_two


@pytest.fixture(scope="module")
def two(tiny_model_dir, tmp_path_factory):
    """Outcomes of both processes, in order of rank, and the teacher."""
    folder = tmp_path_factory.mktemp("two")
    given = soft_route_ranks.save_sources(folder)
    run_on_two("tests.invariant.soft_route_ranks", folder, tiny_model_dir)
    outcomes = [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    return SimpleNamespace(outcomes=outcomes, given=given)


@pytest.mark.parametrize("case", list(soft_route_ranks.CASES))
def test_two_processes_with_a_soft_route_equal_one(case, two, tiny_model_dir, tmp_path):
    """A mean of two processes' mean p, or a pass that one of them leaves out, is off or hangs."""
    one = soft_route_ranks.outcome(tmp_path, tiny_model_dir, two.given, case)
    found = two.outcomes[0][case]
    for mine, theirs in zip(found["logs"], one["logs"], strict=True):
        names = [name for name in theirs if "_loss" in name or name in ("loss", "acceptance", REFUSED)]
        assert REFUSED in names and "distillation_loss" in names
        for name in names:
            assert mine[name] == pytest.approx(theirs[name], rel=5e-6, abs=2e-7), name
    same_moves(one, *(outcome[case] for outcome in two.outcomes))


@pytest.mark.parametrize("case", list(soft_route_ranks.HALVES))
def test_two_processes_contrast_and_weigh_as_two_micro_batches_of_one_do(case, two, tiny_model_dir, tmp_path):
    """Sides by p, and weights by the mixture, are those of a process's own rows."""
    halves = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    one = soft_route_ranks.outcome(tmp_path, tiny_model_dir, two.given, case, **halves)
    found = two.outcomes[0][case]
    for mine, theirs in zip(found["logs"], one["logs"], strict=True):
        names = [name for name in theirs if "_loss" in name or name == "loss"]
        assert len(names) > 1 and all(theirs[name] > 0 for name in names)
        for name in names:
            assert mine[name] == pytest.approx(theirs[name], rel=5e-6, abs=2e-7), name
    same_moves(one, *(outcome[case] for outcome in two.outcomes))


def same_moves(one, first, second):
    assert max(value.abs().max() for value in one["moved"].values()) > 1e-4
    for name, value in one["moved"].items():
        torch.testing.assert_close(first["moved"][name], value, rtol=1e-4, atol=3e-7)
        assert torch.equal(first["moved"][name], second["moved"][name])
