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


def moved(budget, divergences):
    """The multiplier after each of some steps, of which each had one token."""
    found = []
    for divergence in divergences:
        budget.watch(sums(divergence, 1))
        budget.on_step_end(None, None, None)
        found.append(budget.multiplier)
    return found


def test_a_burst_is_worked_off_in_as_many_steps_as_it_took():
    """Twenty steps at 20 times the budget raised the weight to 19.5, and 380 steps at 0 brought it back."""
    budget = ConsistencyBudget(Accelerator(cpu=True), budget=0.05, rate=0.05, multiplier=0.5)
    burst = moved(budget, [1.0] * 20)
    assert max(burst) == burst[-1] == pytest.approx(0.5 + 20 * 0.05)
    assert moved(budget, [0.0] * 20)[-1] == pytest.approx(0.5)
    # How far above does not matter: twice the budget raises it as much.
    again = ConsistencyBudget(Accelerator(cpu=True), budget=0.05, rate=0.05, multiplier=0.5)
    assert moved(again, [0.1] * 20) == pytest.approx(burst)


def test_within_the_bounds_a_step_is_in_proportion():
    """A step of fixed size would never come to rest at the budget."""
    budget = ConsistencyBudget(Accelerator(cpu=True), budget=2.0, rate=0.1, multiplier=1.0)
    assert moved(budget, [2.0, 3.0, 1.5]) == pytest.approx([1.0, 1.05, 1.025])


def test_the_maximum_holds_leaves_no_debt_and_is_said_once(caplog):
    """Under a budget that cannot be kept, the weight grows until the other terms count for nothing."""
    budget = ConsistencyBudget(Accelerator(cpu=True), budget=0.1, rate=0.5, multiplier=1.0, maximum=3.0)
    assert moved(budget, [5.0] * 400)[3:] == [3.0] * 397
    assert moved(budget, [0.0])[0] == pytest.approx(2.5)  # not after 400 steps of its own
    moved(budget, [5.0] * 3)
    said = [message for message in caplog.messages if "maximum of 3" in message]
    assert len(said) == 1 and "budget of 0.1" in said[0] and "consistency_budget_maximum" in said[0]


def test_a_maximum_below_the_start_says_so(tiny_model_dir, tmp_path):
    """The weight that was set would never be used."""
    changes = {**OFF, "consistency_weight": 2.0, "consistency_budget": 0.1}
    with pytest.raises(ValueError, match=r"consistency_budget_maximum: is 1, less than the weight of 2"):
        build(tmp_path, tiny_model_dir, **changes, consistency_budget_maximum=1.0)
    with pytest.raises(ValueError, match=r"consistency_budget_maximum: must be greater than 0"):
        build(tmp_path, tiny_model_dir, **changes, consistency_budget_maximum=0.0)
    trainer = build(tmp_path, tiny_model_dir, **changes, consistency_budget_maximum=2.5)
    assert trainer.objective.terms["consistency"].schedule.maximum == 2.5


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
