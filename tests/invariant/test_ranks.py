# SPDX-License-Identifier: Apache-2.0
"""Two gloo processes against one: sharded gradients, uneven and masked ranks, and one rank's NaN stops both."""

import math

import pytest
import torch

from tests.invariant import ranks
from tests.processes import run_on_two
from tests.trainers import build, lora


@pytest.fixture(scope="module")
def two(tiny_model_dir, tmp_path_factory):
    """Outcomes of both processes, in order of rank."""
    folder = tmp_path_factory.mktemp("two")
    run_on_two("tests.invariant.ranks", folder, tiny_model_dir)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.fixture(scope="module")
def one(tiny_model_dir, tmp_path_factory):
    """The same jobs in this process alone."""
    return lambda job: ranks.JOBS[job](tmp_path_factory.mktemp("one"), tiny_model_dir)


def assert_equal_gradients(found, expected, name):
    assert found.keys() == expected.keys() and expected
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-6, msg=lambda m, k=key: f"{name} {k}: {m}")


def test_fully_sharded_gradients_equal_those_of_one_process(two, one):
    """A head read while it is sharded, or a second pass outside the hooks, gives a part of the gradient."""
    expected = one("sharded")
    for name, gradients in expected.items():
        found = two[0]["sharded"][name]
        assert_equal_gradients(found, gradients, name)
        residual = torch.cat([(found[key] - value).flatten().double() for key, value in gradients.items()])
        assert abs(residual.mean()) < 1e-8
    assert any("lm_head" in key for key in expected["head"])


def test_teachers_sharded_with_the_student_teach_what_whole_ones_do(two, one):
    """A head that outlives the pass of a sharded teacher is freed memory, and a rank that skips a teacher's pass hangs all."""
    expected = one("sharded_teachers")
    for name, gradients in expected.items():
        assert_equal_gradients(two[0]["sharded_teachers"][name], gradients, name)


def test_a_rank_without_a_kept_token_neither_hangs_nor_counts(two):
    """A rank that skips its backward pass hangs the others; one that counts halves the means."""
    for step in two[0]["masked_rank"]["steps"]:
        assert all(math.isfinite(value) for value in step.values()) and step["grad_norm"] > 0
    first = two[0]["masked_rank"]["steps"][0]
    # Both ranks' adapter_l2 is the same number; a sum over ranks without its count would double it.
    total = first["task_loss"] + first["distillation_loss"] + 0.5 * first["consistency_loss"]
    assert first["loss"] == pytest.approx(total + 0.01 * first["regularization_loss"], rel=1e-5)


def test_one_ranks_nan_stops_all_ranks_at_the_same_step(two):
    """A rank that stops alone leaves the others waiting for it until the job's time is over."""
    for rank in two:
        assert "distillation_loss, loss: not finite at step 2" in rank["bad_rank"]["error"]
        assert rank["bad_rank"]["step"] == 1


def test_evaluation_over_ranks_is_weighted_by_tokens(two, one):
    """The ranks' rows differ in length; a mean of the ranks' means is another number on every machine."""
    expected = one("evaluation")["metrics"]
    for rank in two:
        found = rank["evaluation"]["metrics"]
        for name in ("task_loss", "distillation_loss", "consistency_loss", "acceptance", "entropy"):
            assert found[f"eval_{name}"] == pytest.approx(expected[f"eval_{name}"], rel=2e-6), name


def test_state_survives_another_number_of_processes(two, tiny_model_dir, tmp_path):
    """A process without a file of its own began anew, so that the run had two multipliers: 7.25 and 0.5."""
    first, second = (rank["resumed"] for rank in two)
    assert not torch.equal(first["saved"]["queue"], second["saved"]["queue"])  # so that a mix-up would show
    for rank in (first, second):
        assert rank["both"]["multiplier"] == second["saved"]["multiplier"] > 2
        assert rank["single"]["multiplier"] == 7.25
        for name in ("queue", "noise"):
            assert torch.equal(rank["both"][name], rank["saved"][name])
            assert torch.equal(rank["single"][name], first["saved"][name])
    one = build(tmp_path, tiny_model_dir, given={"peft_config": lora()}, max_steps=1, **ranks.REMEMBERING)
    one.train(resume_from_checkpoint=first["checkpoint"])
    found = ranks.remembered(one)
    assert found["multiplier"] == second["saved"]["multiplier"]
    assert all(torch.equal(found[name], first["saved"][name]) for name in ("queue", "noise"))


def test_adapter_teacher_of_two_processes_is_that_of_one(two, one):
    """DDP must neither wait for the teacher's gradients nor mix its adapter with the student's."""
    expected = one("adapter_teacher")
    for rank in two:
        found = rank["adapter_teacher"]
        for step, wanted in zip(found["steps"], expected["steps"], strict=True):
            for name in ("task_loss", "distillation_loss", "consistency_loss"):
                assert step[name] == pytest.approx(wanted[name], rel=1e-4), name
        assert found["trained"].keys() == expected["trained"].keys() and found["trained"]
        for name, value in expected["trained"].items():
            torch.testing.assert_close(found["trained"][name], value, rtol=1e-3, atol=1e-5)
        assert found["teacher"].keys() == expected["teacher"].keys() and found["teacher"]
        assert all(torch.equal(found["teacher"][name], value) for name, value in expected["teacher"].items())
        assert "adapter_model.safetensors" in found["saved"] and "hf_ckt_teacher" not in found["saved"]
