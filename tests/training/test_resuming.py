# SPDX-License-Identifier: Apache-2.0
"""No step beyond the last, and nothing left of an attempt that ran out of memory."""

import json
import shutil

import pytest
import torch
from datasets import Dataset, IterableDataset

from tests.runs import OFF, rows
from tests.trainers import ON, build, lora, run, steps, trained

# What says how long a run is -> its steps, each with a checkpoint at its last one.
LENGTHS = {
    "within an epoch": ({"max_steps": 3}, 3),
    "end of the first epoch": ({"max_steps": 2}, 2),
    "end of a later epoch": ({"max_steps": 4}, 4),
    "whole epochs": ({"max_steps": -1, "num_train_epochs": 2}, 4),
    "part of an epoch": ({"max_steps": -1, "num_train_epochs": 1.5}, 3),
    "accumulation": ({"max_steps": 3, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 3}, 3),
    "data skipped": ({"max_steps": 3, "ignore_data_skip": True}, 3),
    "weights alone": ({"max_steps": 3, "save_only_model": True}, 3),
    "stream": ({"max_steps": 3}, 3),
}


@pytest.mark.parametrize("weights", [OFF, ON], ids=["off", "on"])
@pytest.mark.parametrize("name", list(LENGTHS))
def test_a_finished_run_that_is_started_again_trains_no_further_step(name, weights, tiny_model_dir, tmp_path):
    """Step 151 of 150: a run that was killed in its evaluation ends in other weights than one that was not."""
    changes, last = LENGTHS[name]
    changes = {"save_strategy": "steps", "save_steps": last, **changes, **weights}

    def make():
        data = Dataset.from_list(rows())
        if name == "stream":
            data = IterableDataset.from_generator(lambda: iter(rows() * 4))
        return build(tmp_path, tiny_model_dir, data, given={"peft_config": lora(lora_dropout=0.1)}, **changes)

    whole = run(make())
    assert whole.state.global_step == last and (tmp_path / f"checkpoint-{last}").is_dir()
    again = make()
    outcome = again.train(resume_from_checkpoint=True)
    assert again.state.global_step == outcome.global_step == last
    assert steps(again) == steps(whole)
    expected = trained(whole)
    assert all(torch.equal(value, expected[key]) for key, value in trained(again).items())


def test_a_finished_run_keeps_its_best_checkpoint(tiny_model_dir, tmp_path):
    """What is done after the last step must be done all the same, or the last weights pass for the best."""
    changes = {"max_steps": 4, "save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1}
    changes |= {"load_best_model_at_end": True, "learning_rate": 5.0, **OFF}
    given = {"peft_config": lora(), "eval_dataset": Dataset.from_list(rows(3))}
    whole = run(build(tmp_path, tiny_model_dir, given=given, **changes))
    assert whole.state.best_global_step < 4
    again = build(tmp_path, tiny_model_dir, given=given, **changes)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    expected = trained(whole)
    assert all(torch.equal(value, expected[key]) for key, value in trained(again).items())


def test_a_run_that_was_made_longer_goes_on(tiny_model_dir, tmp_path):
    """Finished is what has as many steps as are asked for now, not what once was finished."""
    changes = {"save_strategy": "steps", "save_steps": 2, **OFF}
    run(build(tmp_path, tiny_model_dir, max_steps=2, **changes))
    longer = build(tmp_path, tiny_model_dir, max_steps=3, **changes)
    longer.train(resume_from_checkpoint=True)
    assert longer.state.global_step == 3
    shorter = build(tmp_path, tiny_model_dir, max_steps=1, **changes)
    shorter.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert shorter.state.global_step == 2


# Everything that remembers.
REMEMBERS = {
    **ON,
    "learning_rate": 0.0,
    "max_steps": 5,
    "contrastive_queue_size": 40,
    "perturbation": "adversarial",
    "perturbation_warm_start": True,
    "consistency_budget": 1e-4,
    "consistency_budget_rate": 0.5,
    "nonfinite_loss": "skip",
    "logging_steps": 2,
}


def out_of_memory(trainer, rows_that_fit, at_step):
    """Lets the trainer's steps fail, as a full device does, while a batch has more rows than fit."""
    inner, calls = trainer.compute_loss, []

    def compute_loss(model, inputs, *args, **kwargs):
        loss = inner(model, inputs, *args, **kwargs)
        calls.append(len(inputs["input_ids"]))
        if model.training and calls[-1] > rows_that_fit and trainer.state.global_step >= at_step:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 MiB.")
        return loss

    trainer.compute_loss = compute_loss
    return calls


@pytest.mark.filterwarnings("ignore:.*reduc.*batch size")
@pytest.mark.parametrize("at_step", [0, 3])
def test_an_attempt_that_ran_out_of_memory_leaves_nothing_behind(at_step, tiny_model_dir, tmp_path):
    """Sums, tokens, queue, multiplier and noise of the larger batches would enter the run that is then reported."""
    given = {"peft_config": lora()}
    changes = {**REMEMBERS, "train_sampling_strategy": "random"}
    tried = build(
        tmp_path / "tried",
        tiny_model_dir,
        given=given,
        **changes,
        per_device_train_batch_size=4,
        auto_find_batch_size=True,
    )
    calls = out_of_memory(tried, 3, at_step)
    run(tried)
    fits = calls[-1]
    assert 4 in calls and fits < 4
    fresh = run(build(tmp_path / "fresh", tiny_model_dir, given=given, **changes, per_device_train_batch_size=fits))
    assert steps(tried) == steps(fresh) and len(steps(fresh)) == 2
    assert torch.equal(tried.objective.contrast.queue.states, fresh.objective.contrast.queue.states)
    assert torch.equal(tried._extra_passes.noisy.previous, fresh._extra_passes.noisy.previous)
    assert tried._budget.multiplier == fresh._budget.multiplier > 0.5


@pytest.mark.filterwarnings("ignore:.*reduc.*batch size")
def test_an_attempt_after_a_resume_begins_at_the_checkpoint(tiny_model_dir, tmp_path):
    """Set back to the start of all training, the state would be that of no run."""
    given = {"peft_config": lora()}
    changes = {**REMEMBERS, "save_strategy": "steps", "save_steps": 2, "per_device_train_batch_size": 3}
    fresh = run(build(tmp_path / "run", tiny_model_dir, given=given, **changes))
    # The number of rows that fit is part of the checkpoint, and taken from it.
    path = tmp_path / "run" / "checkpoint-2" / "trainer_state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "train_batch_size": 4}))
    tried = build(tmp_path / "tried", tiny_model_dir, given=given, **changes, auto_find_batch_size=True)
    calls = out_of_memory(tried, 3, 2)
    tried.train(resume_from_checkpoint=str(path.parent))
    assert calls[0] == 4 and calls[-1] == 3
    assert steps(tried)[-1]["consistency_multiplier"] == steps(fresh)[-1]["consistency_multiplier"]
    assert torch.equal(tried.objective.contrast.queue.states, fresh.objective.contrast.queue.states)


def test_a_flag_of_a_broken_off_attempt_stops_no_other(tiny_model_dir, tmp_path):
    """A NaN just before memory ran out would be charged to the first step of the next attempt."""
    trainer = build(tmp_path, tiny_model_dir, given={"peft_config": lora()}, **ON)
    trainer._guard.watch({"loss": torch.tensor(torch.nan)})
    run(trainer)
    assert trainer.state.global_step == 2


def test_half_of_an_interrupted_window_is_not_logged_by_the_next_run(tiny_model_dir, tmp_path):
    """A notebook whose cell is interrupted and run again would see the mean of both."""
    trainer = build(tmp_path, tiny_model_dir, given={"peft_config": lora()}, learning_rate=0.0, **ON)
    expected = steps(run(trainer))
    shutil.rmtree(tmp_path, ignore_errors=True)
    trainer._sums["train"].add({"task_loss": torch.tensor([1e6, 1.0])})
    found = steps(run(trainer))
    assert [step["task_loss"] for step in found] == [step["task_loss"] for step in expected]
