# SPDX-License-Identifier: Apache-2.0
"""The multiplier that holds the divergence to its budget."""

import pytest
import torch
from accelerate import Accelerator

from hf_ckt.objective.budget import ConsistencyBudget
from tests.trainers import OFF, build, lora, run, steps


def sums(total: float, count: int) -> dict:
    return {"consistency_loss": torch.tensor([total, count], dtype=torch.float32)}


def test_multiplier_takes_the_step_of_dual_ascent():
    """A sign turned round drives the divergence away from its budget."""
    budget = ConsistencyBudget(Accelerator(cpu=True), budget=0.5, rate=0.1, multiplier=1.0)
    budget.watch(sums(6.0, 4))
    budget.watch(sums(0.0, 2))  # both micro-batches: 6 nats over 6 tokens, twice the budget
    budget.on_step_end(None, None, None)
    assert budget.at(0.9) == pytest.approx(1.1) and budget.weight == 1.0
    budget.watch(sums(0.0, 3))
    budget.on_step_end(None, None, None)
    assert budget.multiplier == pytest.approx(1.0)


def test_multiplier_stays_without_news_and_never_falls_below_zero():
    """A step without a noisy view is no step at a divergence of 0, and a negative weight would maximise it."""
    budget = ConsistencyBudget(Accelerator(cpu=True), budget=1.0, rate=1.0, multiplier=0.5)
    budget.watch({"task_loss": torch.ones(2)})
    budget.on_step_end(None, None, None)
    budget.watch(sums(9.0, 1))
    budget.forget()  # as after a skipped step
    budget.on_step_end(None, None, None)
    budget.watch(sums(0.0, 0))
    budget.on_step_end(None, None, None)
    assert budget.multiplier == 0.5
    budget.watch(sums(0.0, 7))
    budget.on_step_end(None, None, None)
    assert budget.multiplier == 0.0


def budget_run(folder, model, budget: float, **changes):
    changes = {
        **OFF,
        "consistency_weight": 0.1,
        "consistency_budget": budget,
        "perturbation_alpha": 3.0,
        "max_steps": 150,
        "per_device_train_batch_size": 8,
        "learning_rate": 3e-3,
        "lr_scheduler_type": "constant",
        **changes,
    }
    return run(build(folder, model, given={"peft_config": lora()}, **changes))


def test_a_run_ends_within_a_fifth_of_its_budget(tiny_model_dir, tmp_path):
    """The point of a budget: to name the divergence instead of trying weights."""
    free = steps(budget_run(tmp_path / "free", tiny_model_dir, 1e6))
    unbound = sum(step["consistency_loss"] for step in free[-30:]) / 30
    wanted = unbound / 2
    held = steps(budget_run(tmp_path / "held", tiny_model_dir, wanted, consistency_budget_rate=0.2))
    reached = sum(step["consistency_loss"] for step in held[-30:]) / 30
    print(f"divergence without a constraint {unbound:.4f}, budget {wanted:.4f}, reached {reached:.4f} nats per token")
    assert reached == pytest.approx(wanted, rel=0.2)
    assert sum(step["consistency_multiplier"] for step in held[-30:]) > 0  # it is the constraint that holds it there
    # Where the divergence keeps within its budget by itself, the constraint costs nothing in the end.
    assert free[-1]["consistency_multiplier"] == 0


def test_a_fixed_weight_logs_no_multiplier(tiny_model_dir, tmp_path):
    """A number that never moves would be taken for one that was found."""
    trainer = run(build(tmp_path, tiny_model_dir, **{**OFF, "consistency_weight": 0.1}))
    assert "consistency_multiplier" not in steps(trainer)[0]
