# SPDX-License-Identifier: Apache-2.0
"""Evaluations that can be compared: each with sums of its own, and a loss that moves with the model alone."""

import logging

import pytest
import torch
from datasets import Dataset, IterableDataset
from transformers import TrainerCallback

from hf_ckt.noise import noisy_view
from tests.runs import OFF, rows
from tests.trainers import ON, build, lora, run, steps

TIMED = ("_runtime", "_second", "_time", "epoch")


def numbers(metrics):
    return {name: value for name, value in metrics.items() if not name.endswith(TIMED)}


def tokenized(trainer, count):
    """Rows as `predict` takes them: it prepares none."""
    part = trainer._prepare_dataset(
        Dataset.from_list(rows(count)), trainer.processing_class, trainer.args, False, None, "other"
    )
    return part.select_columns(["input_ids", "labels"])


def test_an_evaluation_after_a_prediction_counts_its_own_rows_alone(tiny_model_dir, tmp_path):
    """The predicted rows entered the means of the evaluation that came next: 2.504 in place of 2.536."""
    given = {"peft_config": lora(), "eval_dataset": Dataset.from_list(rows(3))}
    trainer = build(tmp_path, tiny_model_dir, given=given, **ON)
    expected = numbers(trainer.evaluate())
    assert "eval_task_loss" in expected and "eval_teacher_agreement" in expected
    trainer.predict(tokenized(trainer, 8))
    trainer.log({"mine": 1.0})  # in eval mode, as what a callback logs after it
    assert {name for name in trainer.state.log_history[-1] if name.startswith("eval_")} == set()
    trainer.predict(tokenized(trainer, 8))
    assert numbers(trainer.evaluate()) == expected


def test_an_evaluation_after_one_that_was_broken_off_counts_its_own_rows_alone(tiny_model_dir, tmp_path):
    """A cell that was interrupted leaves half a loop's sums."""
    given = {"peft_config": lora(), "eval_dataset": Dataset.from_list(rows(8))}
    trainer = build(tmp_path, tiny_model_dir, given=given, **ON)
    expected = numbers(trainer.evaluate())

    class Interrupt(TrainerCallback):
        def on_prediction_step(self, *args, **kwargs):
            raise KeyboardInterrupt

    callback = Interrupt()
    trainer.add_callback(callback)
    with pytest.raises(KeyboardInterrupt):
        trainer.evaluate()
    trainer.remove_callback(callback)
    assert numbers(trainer.evaluate()) == expected


@pytest.mark.parametrize(
    "perturbation", ["typos", {"typos": 0.5, "gaussian": 0.5}, {"typos": 0.5, "adversarial": 0.5}], ids=str
)
@pytest.mark.parametrize("sharded", [False, True])
def test_rows_without_text_are_evaluated_without_a_noisy_view(sharded, perturbation, tiny_model_dir, tmp_path, caplog):
    """The error's advice, to pass the data as text, is none that `predict` could follow."""
    noisy_view._say_without_text.cache_clear()
    given = {"peft_config": lora(), "eval_dataset": Dataset.from_list(rows(3))}
    weights = {**OFF, "distillation_weight": 1.0, "consistency_weight": 0.5, "perturbation": perturbation}
    trainer = build(tmp_path, tiny_model_dir, given=given, **weights)
    trainer._extra_passes.noisy.never_empty = sharded  # as where every process must make the same passes
    known = trainer.evaluate()
    assert known["eval_consistency_loss"] > 0
    # Other rows than the trainer prepared, and as `predict` wants them: with ids and labels.
    foreign = [
        {"input_ids": [*range(5, 15), 20 + number, 30], "labels": [-100] * 10 + [20 + number, 30]}
        for number in range(4)
    ]
    with caplog.at_level(logging.WARNING):
        metrics = trainer.predict(Dataset.from_list(foreign)).metrics
        trainer.predict(Dataset.from_list(foreign))
    # The same without the term, from logits: the task, and the divergence from the base.
    batch = trainer.data_collator(foreign)
    labels = batch.pop("labels")[:, 1:]
    with torch.no_grad():
        student = trainer.model(**batch).logits[:, :-1][labels != -100].log_softmax(-1)
        with trainer.model.disable_adapter():
            teacher = trainer.model(**batch).logits[:, :-1][labels != -100].log_softmax(-1)
    task = -student.gather(1, labels[labels != -100][:, None]).mean()
    distillation = (teacher.exp() * (teacher - student)).sum(-1).mean()
    assert metrics["test_loss"] == pytest.approx(float(task + distillation), rel=1e-5)
    assert len([message for message in caplog.messages if "without a noisy view" in message]) == 1


TEXTLESS = {
    "tokenized": lambda: Dataset.from_list(
        [{"input_ids": [*range(5, 17)], "labels": [-100] * 8 + [13, 14, 15, 16]}] * 4
    ),
    "streaming": lambda: IterableDataset.from_generator(lambda: iter(rows(12)[8:])),
    "without prompts": lambda: Dataset.from_dict({"text": ["How do I bake bread?"] * 4}),
}


@pytest.mark.parametrize("data", list(TEXTLESS))
@pytest.mark.parametrize("kind", ["evaluate", "built with"])
def test_evaluation_data_need_no_text(kind, data, tiny_model_dir, tmp_path):
    """SFTTrainer evaluates them; a term that cannot be had must not take that away."""
    foreign = TEXTLESS[data]()
    weights = {**OFF, "consistency_weight": 0.5, "perturbation": "typos"}
    given = {"peft_config": lora(), **({"eval_dataset": foreign} if kind == "built with" else {})}
    trainer = build(tmp_path, tiny_model_dir, given=given, **weights)
    metrics = trainer.evaluate() if kind == "built with" else trainer.evaluate(foreign)
    assert metrics["eval_task_loss"] == pytest.approx(metrics["eval_loss"], rel=1e-6)
    assert "eval_consistency_loss" not in metrics
    run(trainer)
    assert steps(trainer)[-1]["consistency_loss"] > 0


# What moves in a run although its model does not, and the weights that an evaluation has at any time.
MOVING = {
    "warm-ups": (
        {f"{role}_schedule": "warmup" for role in ("distillation", "contrastive", "consistency", "regularization")},
        {"distillation": 1.0, "contrastive": 0.3, "consistency": 0.5, "regularization": 0.01},
    ),
    "to an end": (
        {
            "task_schedule": "linear",
            "task_weight_end": 0.25,
            "distillation_schedule": "cosine",
            "distillation_weight_end": 2.0,
            "consistency_schedule": "linear",
        },
        {"task": 0.25, "distillation": 2.0, "contrastive": 0.3, "consistency": 0.0, "regularization": 0.01},
    ),
    "budget": (
        {"consistency_budget": 1e-3, "consistency_budget_rate": 0.5},
        {"distillation": 1.0, "contrastive": 0.3, "consistency": 0.5, "regularization": 0.01},
    ),
    "severity": (
        {"perturbation": "word_dropout", "perturbation_severity": 0.5, "perturbation_severity_schedule": "warmup"},
        {"distillation": 1.0, "contrastive": 0.3, "consistency": 0.5, "regularization": 0.01},
    ),
    "queue": (
        {"contrastive_queue_size": 64},
        {"distillation": 1.0, "contrastive": 0.3, "consistency": 0.5, "regularization": 0.01},
    ),
    "warm start": (
        {"perturbation": "adversarial", "perturbation_warm_start": True, "perturbation_severity_schedule": "linear"},
        {"distillation": 1.0, "contrastive": 0.3, "consistency": 0.5, "regularization": 0.01},
    ),
}


@pytest.mark.parametrize("name", list(MOVING))
def test_the_loss_of_an_evaluation_stays_while_the_model_does(name, tiny_model_dir, tmp_path):
    """Early stopping and the best checkpoint would choose the first evaluation, before a warm-up has begun to count."""
    changes, weights = MOVING[name]
    changes = {
        **ON,
        "max_steps": 4,
        "learning_rate": 0.0,
        "schedule_warmup_ratio": 0.5,
        "eval_strategy": "steps",
        "eval_steps": 1,
        "eval_on_start": True,
        **changes,
    }
    given = {"peft_config": lora(), "eval_dataset": Dataset.from_list(rows(4))}
    trainer = run(build(tmp_path, tiny_model_dir, given=given, **changes))
    found = [numbers(entry) for entry in trainer.state.log_history if "eval_loss" in entry]
    found = [{key: value for key, value in entry.items() if key not in ("step", "eval_num_tokens")} for entry in found]
    assert len(found) == 5 and all(entry == found[0] for entry in found)
    assert numbers(trainer.evaluate())["eval_loss"] == found[0]["eval_loss"]
    # One batch: the loss is the sum of the logged terms, each by its weight.
    terms = {role: found[0][f"eval_{role}_loss"] for role in ("task", *weights)}
    expected = sum({"task": 1.0, **weights}[role] * value for role, value in terms.items())
    assert found[0]["eval_loss"] == pytest.approx(expected, rel=1e-5)
    # What moves does move in training.
    if name == "budget":
        assert len({step["consistency_multiplier"] for step in steps(trainer)}) == 4
        assert "eval_consistency_multiplier" not in found[0]
    if name in ("severity", "queue"):
        term = {"severity": "consistency_loss", "queue": "contrastive_loss"}[name]
        assert steps(trainer)[0][term] != pytest.approx(steps(trainer)[-1][term], rel=1e-3)
    if name == "warm start":
        assert isinstance(trainer._extra_passes.noisy.previous, torch.Tensor)
