# SPDX-License-Identifier: Apache-2.0
"""Names in groups for trackers, plain ones everywhere else."""

import pytest
from datasets import Dataset
from transformers.integrations import TensorBoardCallback
from transformers.integrations.integration_utils import rewrite_logs

from hf_ckt.training.log_names import grouped_name
from tests.runs import rows
from tests.trainers import ON, build, lora, run, same_run


class Tracker(TensorBoardCallback):
    """Keeps what it is told in place of writing it."""

    def __init__(self):
        self.told = []

    def on_train_begin(self, args, state, control, **kwargs):
        pass

    def on_train_end(self, args, state, control, **kwargs):
        pass

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.told.append(rewrite_logs(logs))


def tracked(folder, model, *, later=False, **changes):
    """A finished run with a tracker, and what it was told."""
    tracker = Tracker()
    given = {"peft_config": lora(), "eval_dataset": {"one": Dataset.from_list(rows(4))}}
    given |= {} if later else {"callbacks": [tracker]}
    settings = {"eval_strategy": "steps", "eval_steps": 2, "perturbation": "typos", **changes}
    trainer = build(folder, model, given=given, **ON, **settings)
    if later:
        trainer.add_callback(tracker)
    return run(trainer), tracker.told


@pytest.mark.parametrize("later", [False, True])
def test_trackers_get_groups_and_the_trainer_keeps_its_names(later, tiny_model_dir, tmp_path):
    """A log with other names would break resuming, plots and early stopping."""
    plain, _ = tracked(tmp_path, tiny_model_dir)
    trainer, told = tracked(tmp_path, tiny_model_dir, grouped_log_names=True, later=later)
    same_run(trainer, plain)
    names = {name for logs in told for name in logs}
    assert {
        *("train/loss", "train/grad_norm", "train/learning_rate", "train/mean_token_accuracy"),
        *("train/objective/distillation_loss", "train/objective/consistency_loss", "train/objective/task_loss"),
        *("train/teacher/acceptance", "train/teacher/teacher_entropy", "train/noise/stayed_clean_typos"),
        *("eval/one_loss", "eval/objective/distillation_loss", "eval/teacher/acceptance"),
    } <= names
    ungrouped = {name for name in names if name.count("/") == 1}
    assert not [name for name in ungrouped if name.endswith(("task_loss", "acceptance")) or "teacher" in name]


def test_trackers_get_plain_names_by_default(tiny_model_dir, tmp_path):
    """Who compares with runs of before, or of SFTTrainer, finds them under the same names."""
    _, told = tracked(tmp_path, tiny_model_dir)
    names = {name for logs in told for name in logs}
    assert "train/distillation_loss" in names and not any(name.count("/") > 1 for name in names)


def test_each_value_of_a_run_is_told_once(tiny_model_dir, tmp_path):
    """Two names that became one would overwrite each other."""
    trainer, told = tracked(tmp_path, tiny_model_dir, grouped_log_names=True)
    for entry, logs in zip(trainer.state.log_history, told, strict=True):
        assert len(logs) == len(entry) - 1  # `step` is the state's own


@pytest.mark.parametrize(
    ("plain", "grouped"),
    [
        ("distillation_loss/refuse", "objective/distillation_loss/refuse"),
        ("eval_regularization_loss", "eval_objective/regularization_loss"),
        ("consistency_multiplier", "objective/consistency_multiplier"),
        ("soft_route_refuse", "teacher/soft_route_refuse"),
        ("teacher_matched", "teacher/teacher_matched"),
        ("eval_stayed_clean_word_swap", "eval_noise/stayed_clean_word_swap"),
        *((name, name) for name in ("loss", "eval_loss", "entropy", "eval_entropy", "num_tokens", "eval_youden_j")),
    ],
)
def test_name_stands_in_the_group_of_what_it_measures(plain, grouped):
    """A value in another group is looked for and not found."""
    assert grouped_name(plain) == grouped


def test_callbacks_that_are_no_trackers_read_plain_names(tiny_model_dir, tmp_path):
    """A callback of the user's that looks for a term would find none."""
    from transformers import TrainerCallback

    seen = set()

    class Reader(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            seen.update(logs)

    trainer = build(tmp_path, tiny_model_dir, given={"peft_config": lora()}, grouped_log_names=True, **ON)
    trainer.add_callback(Reader)
    run(trainer)
    assert "distillation_loss" in seen and not any("/" in name for name in seen)
