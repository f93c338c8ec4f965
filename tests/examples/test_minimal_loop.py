# SPDX-License-Identifier: Apache-2.0
"""The loop without a trainer computes what the trainer computes, and stays on a screen."""

import ast
import copy
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from datasets import Dataset
from transformers import AutoTokenizer

from hf_ckt.data import load_starter_set, to_prompt_completion
from tests import trainers
from tests.examples.running import EXAMPLES, run, run_here
from tests.scripts import load_script
from tests.tiny_models import save_tiny_llama

SCRIPT = EXAMPLES / "12_minimal_loop.py"
LOADING = {"dtype": "float32", "device_map": "cpu"}
STEPS, BATCH_SIZE, LEARNING_RATE, SEED = 4, 4, 1e-2, 7
# Weights that tell the terms apart, each large enough to move the loss of so small a model.
WEIGHTS = {"task": 1.0, "distillation": 1.0, "contrastive": 0.3, "consistency": 0.5, "regularization": 0.01}


@pytest.fixture(scope="module")
def loop():
    """The script as a module."""
    return load_script(SCRIPT)


@pytest.fixture(scope="module")
def other_model_dir(tmp_path_factory) -> Path:
    """A teacher with other weights, another width and the same tokenizer."""
    return save_tiny_llama(tmp_path_factory.mktemp("other"), hidden_size=48, seed=3)


class Run(NamedTuple):
    """What a run of either kind was seen to do: its batches, numbers of each step, and trained weights."""

    batches: list[dict[str, Any]]
    steps: list[dict[str, float]]
    weights: dict[str, torch.Tensor]


def starter_rows() -> list[dict[str, str]]:
    return load_starter_set("train").shuffle(seed=SEED).select(range(STEPS * BATCH_SIZE)).to_list()


def build_student(loop: Any, folder: Path) -> Any:
    """The script's student, its adapters moved off 0: at 0 the self-teacher and the penalty have nothing to say."""
    student = loop.build_student(str(folder), LOADING, SEED)
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    return student


def run_loop(
    loop: Any, folder: Path, teacher: Path | None, roles: Any = tuple(WEIGHTS), noise_seed: int = SEED
) -> Run:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    student, rows = build_student(loop, folder), starter_rows()
    starts = range(0, len(rows), BATCH_SIZE)
    batches = [loop.build_batch(rows[start : start + BATCH_SIZE], tokenizer, student.device) for start in starts]
    losses = {role: (loss, WEIGHTS[role]) for role, (loss, _) in loop.LOSSES.items() if role in roles}
    objective = loop.build_objective(losses, len(tokenizer))
    made = loop.build_teacher(None if teacher is None else str(teacher), LOADING, tokenizer)
    steps = list(loop.train(student, made, objective, batches, LEARNING_RATE, noise_seed))
    seen = [{**batch.inputs, "labels": batch.labels} for batch in batches]
    return Run(seen, steps, weights_of(student))


def run_trainer(loop: Any, folder: Path, teacher: Path | None, output: Path) -> Run:
    trainer = trainers.build(
        output,
        build_student(loop, folder),
        to_prompt_completion(Dataset.from_list(starter_rows())),
        given={
            "processing_class": AutoTokenizer.from_pretrained(folder),
            "teacher_model": None if teacher is None else str(teacher),
        },
        **{f"{role}_weight": weight for role, weight in WEIGHTS.items()},
        perturbation="gaussian",
        max_steps=STEPS,
        per_device_train_batch_size=BATCH_SIZE,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        optim="adamw_torch",
        weight_decay=0.0,
        max_grad_norm=0.0,
        seed=SEED,
        teacher_model_init_kwargs={"dtype": "float32"} if teacher else None,
    )
    batches = [copy.deepcopy(batch) for batch in trainer.get_train_dataloader()]
    trainer.train()
    return Run(batches, trainers.steps(trainer), weights_of(trainer.model))


def weights_of(model: Any) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters() if weight.requires_grad}


@pytest.fixture(scope="module", params=["self", "model"])
def both(request, loop, tiny_model_dir, other_model_dir, tmp_path_factory):
    """A run of the loop and one of the trainer, with the student's own base and with another model as the teacher."""
    teacher = other_model_dir if request.param == "model" else None
    ours = run_loop(loop, tiny_model_dir, teacher)
    return ours, run_trainer(loop, tiny_model_dir, teacher, tmp_path_factory.mktemp("run"))


def test_loop_makes_the_batches_of_the_trainer(both):
    """Losses on other tokens, or with a prompt's token counted, would be compared with those of the trainer."""
    ours, theirs = both
    assert len(ours.batches) == len(theirs.batches) == STEPS
    for one, two in zip(ours.batches, theirs.batches, strict=True):
        assert one.keys() == two.keys()
        for name in one:
            assert torch.equal(one[name], two[name]), name


def test_loop_has_the_losses_of_the_trainer_to_the_last_bit(both):
    """A loop that drifted from the trainer would teach its readers another method, and nothing would say so."""
    # Attainable because all is float32 without dropout, and the passes are made in the trainer's order: with the clean
    # pass before the noisy one, gradients are summed the other way round and the second step differs in its last bit.
    ours, theirs = both
    assert len(ours.steps) == len(theirs.steps) == STEPS
    terms = {"loss", *(f"{role}_loss" for role in WEIGHTS)}
    for one, two in zip(ours.steps, theirs.steps, strict=True):
        assert terms <= one.keys() <= two.keys()
        assert all(abs(one[name]) > 1e-3 for name in terms), one
        assert one == {name: two[name] for name in one}


def test_loop_trains_the_weights_of_the_trainer_to_the_last_bit(both):
    """Equal losses of the first step say nothing of the gradient: a term without one would still be logged."""
    ours, theirs = both
    assert ours.weights.keys() == theirs.weights.keys() and ours.weights
    assert not [name for name in ours.weights if not torch.equal(ours.weights[name], theirs.weights[name])]


@pytest.fixture(scope="module")
def whole(loop, tiny_model_dir, other_model_dir):
    """A run of the loop with every term."""
    return run_loop(loop, tiny_model_dir, other_model_dir)


@pytest.mark.parametrize("role", WEIGHTS)
def test_loop_without_a_term_is_another_run(role, whole, loop, tiny_model_dir, other_model_dir):
    """A term that entered neither loss nor gradient would leave both runs equal, wrongly and to the last bit."""
    without = run_loop(loop, tiny_model_dir, other_model_dir, roles=WEIGHTS.keys() - {role})
    assert f"{role}_loss" not in without.steps[0]
    lacking = WEIGHTS[role] * whole.steps[0][f"{role}_loss"]
    assert without.steps[0]["loss"] == pytest.approx(whole.steps[0]["loss"] - lacking, abs=1e-5)
    assert lacking > 1e-4
    assert all(not torch.equal(whole.weights[name], without.weights[name]) for name in whole.weights)


def test_loop_draws_noise_by_its_seed(loop, tiny_model_dir):
    """Noise that ignored its seed would be one pattern for all steps, which the student can learn by heart."""
    one = run_loop(loop, tiny_model_dir, None)
    two = run_loop(loop, tiny_model_dir, None, noise_seed=SEED + 1)
    assert one.steps[0]["task_loss"] == two.steps[0]["task_loss"]
    assert one.steps[0]["consistency_loss"] != two.steps[0]["consistency_loss"]


def test_script_prints_each_term_of_each_step(tiny_model_dir, other_model_dir, tmp_path):
    """A reader's first try of the script fails, or shows a table with a term missing."""
    options = ["--model", str(tiny_model_dir), "--teacher", str(other_model_dir), "--steps", "2"]
    formula, header, *lines = run("12_minimal_loop.py", *options, cwd=tmp_path).splitlines()
    assert formula.startswith("loss = 1 task + ")
    assert header.split() == ["step", "loss", *WEIGHTS]
    assert [line.split()[0] for line in lines] == ["1", "2"]
    assert all(float(value) > 0 for value in lines[1].split()), lines
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "said"),
    [(["--batch_size", "0"], "--batch-size: must be 1 or more"), (["--model", "nowhere"], "couldn't find them")],
)
def test_script_refuses_wrong_input_in_one_line(options, said, tmp_path, capsys):
    """A traceback hides the sentence that says what to change."""
    with pytest.raises(SystemExit) as ended:
        run_here("12_minimal_loop.py", *options, cwd=tmp_path)
    printed = capsys.readouterr().err
    assert ended.value.code == 2 and "Traceback" not in printed
    assert printed.splitlines()[-1].startswith("12_minimal_loop.py: error: ") and said in printed


def test_script_stays_on_a_screen():
    """A script for reading that grows with each feature of the package is no longer read."""
    text = SCRIPT.read_text(encoding="utf-8")
    docstring = ast.parse(text).body[0]
    assert len(text.splitlines()) - docstring.end_lineno <= 142
