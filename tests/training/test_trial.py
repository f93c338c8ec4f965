# SPDX-License-Identifier: Apache-2.0
"""The first passes of a training are those that it makes, and leave nothing behind."""

import math
import random

import numpy as np
import pytest
import torch
from datasets import Dataset

from hf_ckt.training.trial import plan, run_trial
from tests.runs import OFF, rows
from tests.trainers import ON, build, lora, run, same_run, steps, trained

# What draws numbers, or remembers something from step to step: all of it must be afterwards as it was.
CHANGES = {
    **ON,
    "perturbation": {"typos": 0.5, "gaussian": 0.5},
    "contrastive_queue_size": 16,
    "consistency_budget": 0.1,
    "neftune_noise_alpha": 5.0,
    "train_sampling_strategy": "random",
    "max_length": None,
}


def made(tmp_path, model, data=None, **changes):
    given = {"peft_config": lora(lora_dropout=0.2)}
    return build(tmp_path, model, data, given=given, **{**CHANGES, "max_steps": 3, **changes})


def test_training_after_a_trial_is_the_training_without_one(tiny_model_dir, tmp_path):
    """A look that moves a random state, a queue or a weight makes the run another one than the one that was shown."""
    looked, plain = made(tmp_path, tiny_model_dir), made(tmp_path, tiny_model_dir)
    # A data collator may draw from any of the three.
    collator = looked.data_collator
    looked.data_collator = lambda examples: (random.random(), np.random.rand(), collator(examples))[2]
    # Building the second has moved the random state that a run starts from.
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    before, states = (
        trained(looked),
        (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()),
    )
    run_trial(looked)
    after = trained(looked)
    assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(parameter.grad is None for parameter in looked.model.parameters())
    assert looked.state.global_step == 0 and looked.optimizer is None
    run(looked)
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    same_run(looked, run(plain))


@pytest.mark.parametrize("weights", [OFF, {**OFF, "distillation_weight": 1.0}], ids=["sft", "objective"])
def test_trial_measures_the_first_step_of_the_training(weights, tiny_model_dir, tmp_path):
    """A loss or a time of something else than the run tells nothing about it."""
    changes = {**weights, "max_steps": 1, "gradient_accumulation_steps": 3, "per_device_train_batch_size": 2}
    trial_of, trainer = (build(tmp_path, tiny_model_dir, given={"peft_config": lora()}, **changes) for _ in range(2))
    trial = run_trial(trial_of)
    step = steps(run(trainer))[0]
    assert trial.loss == pytest.approx(step["loss"], rel=1e-4)  # the log rounds
    assert trial.terms == pytest.approx({name: step[name] for name in trial.terms}, rel=1e-6)
    assert set(trial.terms) == ({"task_loss", "distillation_loss"} if weights is not OFF else set())
    assert sum(trial.tokens) == step["num_tokens"] and len(trial.seconds) == 3
    assert trial.seconds_per_micro_batch == pytest.approx(sum(trial.seconds[1:]) / 2)
    # Of the first six rows, by hand: the answer's tokens, and the one that ends it.
    tokenizer = trainer.processing_class
    answers = [len(tokenizer(row["completion"])["input_ids"]) + 1 for row in rows(6)]
    assert trial.counted == [sum(answers[start : start + 2]) for start in (0, 2, 4)]


@pytest.mark.parametrize("changes", [{"max_steps": -1, "num_train_epochs": 2}, {"max_steps": 5}])
def test_plan_is_as_long_as_the_training(changes, tiny_model_dir, tmp_path):
    """An estimate that is a factor of the accumulation away plans for a week."""
    changes = {**OFF, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 3, **changes}
    trainer = build(tmp_path, tiny_model_dir, Dataset.from_list(rows(7)), **changes)
    shown = plan(trainer)
    assert shown.rows == 7 and shown.steps_per_epoch == 3
    run(trainer)
    assert shown.steps == trainer.state.global_step
    assert shown.epochs == pytest.approx(shown.steps / 3)


def test_trial_ends_where_a_training_would_that_is_not_finite(tiny_model_dir, tmp_path):
    """A loss of NaN that nobody looks at trains every weight to NaN."""
    trainer = build(tmp_path, tiny_model_dir, given={"peft_config": lora()}, **{**OFF, "distillation_weight": 1.0})
    with torch.no_grad():
        trainer._causal_lm.lm_head.weight.fill_(math.nan)
    with pytest.raises(FloatingPointError, match="task_loss, distillation_loss, loss: not finite at step 1"):
        run_trial(trainer)


def test_trial_of_fewer_micro_batches_than_it_asks_for(tiny_model_dir, tmp_path):
    """One micro-batch alone must be timed, not left out as the first of several."""
    trainer = build(tmp_path, tiny_model_dir, **OFF, per_device_train_batch_size=8)
    trial = run_trial(trainer)
    assert len(trial.seconds) == 1 and trial.seconds_per_micro_batch == trial.seconds[0] > 0
