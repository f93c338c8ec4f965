# SPDX-License-Identifier: Apache-2.0
"""What is seen of a training in a terminal and in a file."""

import io
import re

import pytest
from datasets import Dataset
from transformers import PrinterCallback, ProgressCallback
from transformers.trainer_callback import TrainerControl, TrainerState

from hf_ckt import LineProgressCallback
from tests.runs import OFF, rows
from tests.trainers import ON, Stop, build, build_sft, lora, run, same_run


class Terminal(io.StringIO):
    """A terminal that is wide enough."""

    def isatty(self):
        return True


def watched(folder, model, *, callback=None, **changes):
    """A trainer with the callback."""
    given = {"peft_config": lora(), **changes.pop("given", {})}
    trainer = build(folder, model, given=given, **{**ON, "max_steps": 4, "logging_steps": 2, **changes})
    trainer.add_callback(callback or LineProgressCallback("student"))
    return trainer


def lines_of(capsys, title="student"):
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith(title)]


def test_file_gets_one_plain_line_a_logging_step(tiny_model_dir, tmp_path, capsys):
    """Raw dictionaries over broken bars cannot be read, and a value that is not the logged one cannot be trusted."""
    trainer = watched(tmp_path, tiny_model_dir)
    capsys.readouterr()
    run(trainer)
    captured = capsys.readouterr()
    assert "\r" not in captured.out and "{'" not in captured.out + captured.err and "%|" not in captured.err
    lines = [line for line in captured.out.splitlines() if line.startswith("student")]
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(lines) == len(logged) == 2
    for line, entry in zip(lines, logged, strict=True):
        assert f"{entry['step']}/4 steps" in line
        shown = dict(re.findall(r", ([a-z ]+) (\S+?)(?=,|$)", line))
        assert float(shown["loss"]) == pytest.approx(entry["loss"], rel=1e-3)
        assert {"task", "distillation", "contrastive", "consistency", "regularization"} <= shown.keys()
        assert float(shown["consistency"]) == pytest.approx(entry["consistency_loss"], rel=1e-3)
        assert float(shown["learning rate"]) == pytest.approx(entry["learning_rate"], rel=1e-3)
        assert float(shown["gradient norm"]) == pytest.approx(entry["grad_norm"], rel=1e-3)


def test_terminal_gets_one_line(tiny_model_dir, tmp_path, monkeypatch):
    """Each logging step on a line of its own scrolls the run out of sight."""
    screen = Terminal()
    trainer = watched(tmp_path, tiny_model_dir, disable_tqdm=False)
    monkeypatch.setattr("sys.stdout", screen)
    run(trainer)
    assert screen.getvalue().count("\n") == 1
    last = screen.getvalue().split("\r")[-1]
    assert "4/4 steps in" in last and "distillation" in last and "learning rate" not in last


def test_disabled_bars_are_lines_in_a_terminal_too(tiny_model_dir, tmp_path, monkeypatch):
    """disable_tqdm is set where a terminal only looks like one."""
    screen = Terminal()
    trainer = watched(tmp_path, tiny_model_dir, disable_tqdm=True)
    monkeypatch.setattr("sys.stdout", screen)
    run(trainer)
    assert "\r" not in screen.getvalue() and screen.getvalue().count("student: ") == 2


@pytest.mark.parametrize("order", ["constructor", "later"])
@pytest.mark.parametrize("disable_tqdm", [True, False])
def test_no_other_progress_is_shown_beside_it(order, disable_tqdm, tiny_model_dir, tmp_path):
    """Two callbacks that show the same draw over each other."""
    callback = LineProgressCallback()
    given = {"callbacks": [callback]} if order == "constructor" else {}
    trainer = build(tmp_path, tiny_model_dir, given=given, disable_tqdm=disable_tqdm, **OFF)
    if order == "later":
        trainer.add_callback(callback)
    shown = [one for one in trainer.callback_handler.callbacks if isinstance(one, (PrinterCallback, ProgressCallback))]
    assert shown == [callback]


def test_default_callbacks_are_those_of_sft_trainer(tiny_model_dir, tmp_path):
    """Who adds nothing sees what SFTTrainer shows."""
    for disable_tqdm in (True, False):
        mine = build(tmp_path, tiny_model_dir, disable_tqdm=disable_tqdm, **OFF).callback_handler.callbacks
        theirs = build_sft(tmp_path, tiny_model_dir, disable_tqdm=disable_tqdm).callback_handler.callbacks
        assert [type(one) for one in mine] == [type(one) for one in theirs]


def test_callback_changes_nothing_of_the_run(tiny_model_dir, tmp_path):
    """A progress line that takes a value out of the log, or draws a random number, would change what is measured."""
    expected = run(build(tmp_path, tiny_model_dir, **ON, given={"peft_config": lora()}, max_steps=4, logging_steps=2))
    same_run(run(watched(tmp_path, tiny_model_dir)), expected)


def test_evaluation_adds_one_line_with_its_terms(tiny_model_dir, tmp_path, capsys):
    """An evaluation's values would be lost, or taken for those of training."""
    data = Dataset.from_list(rows(4))
    trainer = watched(
        tmp_path, tiny_model_dir, given={"eval_dataset": data}, eval_strategy="steps", eval_steps=2, logging_steps=4
    )
    run(trainer)
    evaluated = [line for line in lines_of(capsys) if "evaluation" in line]
    entries = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    assert len(evaluated) == len(entries) == 2
    for line, entry in zip(evaluated, entries, strict=True):
        assert line.startswith(f"student: evaluation, step {entry['step']}: loss {entry['eval_loss']:.4g}, ")
        assert f"distillation {entry['eval_distillation_loss']:.4g}" in line and "runtime" not in line
        assert "num tokens" not in line, "a count stands in every entry"


def test_resumed_run_goes_on_with_its_steps(tiny_model_dir, tmp_path, capsys):
    """Counted from 0 again, the line would say that half of the run is before it."""
    run(watched(tmp_path, tiny_model_dir, save_strategy="steps", save_steps=2, callback=Stop(2)))
    capsys.readouterr()
    trainer = watched(tmp_path, tiny_model_dir, save_strategy="steps", save_steps=2)
    trainer.train(resume_from_checkpoint=True)
    (line,) = lines_of(capsys)
    assert line.startswith("student: 4/4 steps in ")


def test_only_the_main_process_writes(tiny_model_dir, tmp_path, capsys):
    """With two processes each line would be there twice."""
    callback, control = LineProgressCallback("student"), TrainerControl()
    args = build(tmp_path, tiny_model_dir, **OFF).args
    for main in (False, True):
        state = TrainerState(max_steps=2, is_world_process_zero=main)
        callback.on_train_begin(args, state, control)
        for step in (1, 2):
            state.global_step = step
            callback.on_step_end(args, state, control)
            callback.on_log(args, state, control, logs={"loss": 1.0})
        callback.on_evaluate(args, state, control)
        callback.on_log(args, state, control, logs={"eval_loss": 1.0})
        callback.on_train_end(args, state, control)
        assert len(lines_of(capsys)) == 3 * main


def test_evaluation_sets_keep_their_names(tiny_model_dir, tmp_path, capsys):
    """The loss on a set that is called `one` is no term of that name."""
    callback, state = LineProgressCallback("student"), TrainerState(global_step=3, is_world_process_zero=True)
    args = build(tmp_path, tiny_model_dir, **OFF).args
    logs = {"eval_one_loss": 1.0, "eval_task_loss": 2.0, "eval_one_runtime": 3.0, "epoch": 1.0}
    callback.on_log(args, state, TrainerControl(), logs=logs)
    assert lines_of(capsys) == ["student: evaluation, step 3: one loss 1, task 2"]
