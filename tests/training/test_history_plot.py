# SPDX-License-Identifier: Apache-2.0
"""A training's log as a figure: every value that it shows is one of the log."""

import json
import sys

import pytest
from datasets import Dataset

from hf_ckt import plot_history
from tests.runs import OFF, rows
from tests.trainers import ON, build, lora, run


def panels(figure):
    """Title -> label -> points, of each panel."""
    return {
        axis.get_title(loc="left"): {line.get_label(): list(map(tuple, line.get_xydata())) for line in axis.lines}
        for axis in figure.axes
    }


def points(trainer, name, times=lambda step: 1.0):
    entries = [entry for entry in trainer.state.log_history if name in entry]
    return [(entry["step"], pytest.approx(entry[name] * times(entry["step"]))) for entry in entries]


@pytest.fixture
def trainer(tiny_model_dir, tmp_path):
    """A finished run of all terms, evaluated, with its last checkpoint."""
    settings = {"max_steps": 4, "eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 4}
    given = {"peft_config": lora(), "eval_dataset": Dataset.from_list(rows(4))}
    return run(build(tmp_path, tiny_model_dir, given=given, **ON, **settings))


def test_figure_shows_every_active_term_raw_and_weighted(trainer):
    """A term that is drawn with another's values, or without its weight, misleads who tunes it."""
    drawn = panels(trainer.plot_history())
    loss = drawn["loss and what each term adds to it"]
    assert loss["loss"] == points(trainer, "loss") and loss["evaluation"] == points(trainer, "eval_loss")
    weights = {"task": 1.0, **{name.removesuffix("_weight"): weight for name, weight in ON.items()}}
    for role, weight in weights.items():
        assert loss[role] == points(trainer, f"{role}_loss", lambda step, weight=weight: weight)
        (title,) = [one for one in drawn if one.startswith(f"{role}: ")]
        assert drawn[title]["all tokens"] == points(trainer, f"{role}_loss")
    # The loss is what its terms add to it.
    total = [sum(loss[role][place][1] for role in weights) for place in range(4)]
    assert total == pytest.approx([value for _, value in loss["loss"]], rel=1e-3)
    assert drawn["agreement with the teacher (1 = the same)"]["acceptance"] == points(trainer, "acceptance")
    assert drawn["norm of the gradient"]["norm"] == points(trainer, "grad_norm")
    assert drawn["learning rate"]["rate"] == points(trainer, "learning_rate")


def test_schedule_of_a_weight_is_in_what_its_term_adds(tiny_model_dir, tmp_path):
    """With the weight of the start, a term that is faded out would seem to be as large at the end."""
    settings = {"max_steps": 4, "distillation_schedule": "linear", "distillation_weight_end": 0.2}
    trainer = run(build(tmp_path, tiny_model_dir, given={"peft_config": lora()}, **ON, **settings))
    loss = panels(plot_history(trainer))["loss and what each term adds to it"]
    assert loss["distillation"] == points(trainer, "distillation_loss", lambda step: 1.0 - 0.8 * (step - 1) / 4)


def test_saved_state_shows_what_the_live_trainer_does(trainer, tmp_path):
    """A run of another machine is looked at without its model."""
    live = panels(trainer.plot_history())
    checkpoint = tmp_path / "checkpoint-4"
    for source in (tmp_path, checkpoint, str(checkpoint / "trainer_state.json")):
        assert panels(plot_history(source)) == live
    (checkpoint / "hf_ckt_training.json").unlink()
    bare = panels(plot_history(checkpoint))
    assert bare["loss"]["loss"] == live["loss and what each term adds to it"]["loss"]
    assert bare["distillation"] == live["distillation: forward_kl, unweighted"]


def test_weights_that_a_file_does_not_say_are_not_guessed(trainer, tmp_path):
    """The record of a run states where a weight begins, not where its schedule leads."""
    record = tmp_path / "checkpoint-4" / "hf_ckt_training.json"
    content = json.loads(record.read_text())
    content["objective"][1]["schedule"] = "linear"
    record.write_text(json.dumps(content))
    assert {*panels(plot_history(record.parent))["loss"]} == {"loss", "evaluation"}


def test_sft_run_has_its_loss_and_no_terms(tiny_model_dir, tmp_path):
    """Panels without a line look like a fault."""
    trainer = run(build(tmp_path, tiny_model_dir, **OFF))
    assert [*panels(trainer.plot_history())] == ["loss", "norm of the gradient", "learning rate"]


def test_teachers_shares_are_drawn_in_the_terms_panel():
    """A mean over two teachers hides the one that the student does not follow."""
    history = [{"step": 1, "loss": 1.0, "distillation_loss": 0.5, "distillation_loss/safety": 0.9}]
    drawn = panels(plot_history(history))["distillation"]
    assert drawn == {"all tokens": [(1, 0.5)], "safety": [(1, 0.9)]}


def test_values_that_are_not_finite_leave_a_gap():
    """matplotlib would scale the panel by them, or draw nothing at all."""
    history = [{"step": step, "loss": value} for step, value in enumerate((1.0, float("nan"), float("inf"), 2.0), 1)]
    assert panels(plot_history(history))["loss"]["loss"] == [(1, 1.0), (4, 2.0)]


@pytest.mark.parametrize("content", [None, "{", "[]", "{}", '{"log_history": null}', '{"log_history": [1]}'])
def test_what_is_no_state_is_refused(content, tmp_path):
    """An empty figure would say that nothing was trained."""
    if content is not None:
        (tmp_path / "trainer_state.json").write_text(content)
    with pytest.raises(ValueError, match=r"plot_history: .*cannot be read.*Give such a file"):
        plot_history(tmp_path)


def test_what_holds_no_log_is_refused():
    """A whole trainer_state.json, read already, is a likely one."""
    with pytest.raises(TypeError, match="plot_history: a dict holds no log"):
        plot_history({"log_history": []})


def test_log_without_a_step_is_refused():
    """As above, of a run that was shorter than its logging_steps."""
    with pytest.raises(ValueError, match="no training step was logged"):
        plot_history([{"train_runtime": 1.0, "step": 2}])


def test_missing_matplotlib_is_said_in_one_sentence(monkeypatch):
    """It is an extra, and who has not installed it should be told which."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"matplotlib is not installed.*hf-ckt\[plot\]"):
        plot_history([{"step": 1, "loss": 1.0}])
