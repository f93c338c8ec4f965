# SPDX-License-Identifier: Apache-2.0
"""Runs with contrast between middle-layer states, against whole models that read one row at a time."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests import by_hand, tiny_models
from tests.by_hand import FIRST, build_routed, gradient, places_of, rows_by_hand, same_gradient, table
from tests.trainers import Stop, build, lora, run, same_resumed, steps, trained
from tests.training.test_decision_runs import LAYOUTS as DECISION_LAYOUTS
from tests.training.test_decision_runs import RESUMED
from tests.training.test_soft_route_combined import given as given  # the fixture
from tests.training.test_soft_route_runs import build_soft, rows_of, soft_by_hand

TEMPERATURE = 0.5
WEIGHTS = {
    "task_weight": 0.0,
    "contrastive_weight": 1.0,
    "contrastive_level": "state",
    "contrastive_loss": "sincere",
    "contrastive_layers": [1, 2],
    "contrastive_temperature": TEMPERATURE,
}
LAYOUTS: dict[str, dict[str, Any]] = {
    name: changes for name, changes in DECISION_LAYOUTS.items() if "contrastive_queue_size" not in changes
}
LAYOUTS["checkpointed"] = {"per_device_train_batch_size": 8, "gradient_checkpointing": True}


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    return by_hand.save_teachers(tmp_path_factory.mktemp("teachers"))


def prompts_read(model: Any, rows: list[Any], layers: list[int]) -> list[list[Tensor]]:
    """Of each row alone: in each layer the state at the prompt's last token, and the mean over it without its first."""
    found = []
    for row in rows:
        states = model(input_ids=row.ids[None], output_hidden_states=True).hidden_states
        last = int(places_of(row)[0])
        found.append(
            [one for layer in layers for one in (states[layer][0, last], states[layer][0, 1 : last + 1].mean(0))]
        )
    return found


def by_states(loss: str, read: list[list[Tensor]], sides: list[Any]) -> Tensor:
    """The mean over documents."""
    centred = []
    for reading in zip(*read, strict=True):
        middle = sum(reading) / len(reading)
        centred.append([(one - middle).double() for one in reading])
    count = len(read)

    def alike(i: int, j: int) -> Tensor:
        cosines = [torch.cosine_similarity(one[i], one[j], dim=0) for one in centred]
        return sum(cosines) / len(cosines)

    values = []
    for i in range(count):
        scores = [alike(i, j) / TEMPERATURE for j in range(count)]
        own = [score for score, side in zip(scores, sides, strict=True) if side == sides[i]]
        others = [score for score, side in zip(scores, sides, strict=True) if side != sides[i]]
        if loss == "sincere":
            values.append(torch.stack([torch.stack([one, *others]).logsumexp(0) - one for one in own]).mean())
        else:
            values.append(torch.stack(scores).logsumexp(0) - torch.stack(own).mean())
    return torch.stack(values).mean()


def sides_of(data: Any) -> list[str]:
    return [name or FIRST for name in data["teacher"]]


@pytest.mark.parametrize("layout", list(LAYOUTS))
@pytest.mark.parametrize("loss", ["supervised_contrastive", "sincere"])
def test_state_contrast_of_a_run_is_that_of_rows_read_alone(loss, layout, teachers, tiny_model_dir, tmp_path):
    """Padding, packs and accumulation each have their own way to mistake another position for the prompt's end."""
    data = table()
    trainer = build_routed(
        tmp_path, tiny_model_dir, teachers, data, **{**WEIGHTS, "contrastive_loss": loss, **LAYOUTS[layout]}
    )
    read, sides = prompts_read(trainer.model, rows_by_hand(tiny_model_dir, data), [1, 2]), sides_of(data)
    parts = [slice(0, 4), slice(4, 8)] if layout.startswith("4 x 2") else [slice(0, 8)]
    expected = torch.stack([by_states(loss, read[part], sides[part]) for part in parts]).mean()
    before, wanted = trained(trainer), gradient(trainer, expected)
    (logs,) = steps(run(trainer))
    assert logs["contrastive_loss"] == pytest.approx(expected.item(), rel=2e-5)
    after = trained(trainer)
    same_gradient({name: value - after[name] for name, value in before.items()}, wanted, rtol=1e-3, atol=5e-6)


@pytest.mark.parametrize("noise", [{}, {"noisy_view_batched": True}, {"noisy_view_recompute": True}])
def test_states_are_those_of_the_clean_prompts_beside_a_noisy_view(noise, teachers, tiny_model_dir, tmp_path):
    """Both views in one batch: its other half would be contrasted, or the pass would be asked for what it does not know."""
    data = table()
    changes = {**WEIGHTS, "consistency_weight": 1.0, "per_device_train_batch_size": 8, **noise}
    trainer = build_routed(tmp_path, tiny_model_dir, teachers, data, **changes)
    read = prompts_read(trainer.model, rows_by_hand(tiny_model_dir, data), [1, 2])
    expected = by_states("sincere", read, sides_of(data)).item()
    (logs,) = steps(run(trainer))
    assert logs["contrastive_loss"] == pytest.approx(expected, rel=2e-5) and logs["consistency_loss"] > 0


CHOSEN = {
    "by role": ({"role_rows": {"contrastive": {"topic": "cooking"}}}, [0, 2, 3, 5, 7]),
    "evenly spaced": ({"contrastive_max_anchors": 3}, [0, 2, 5]),
}


@pytest.mark.parametrize("case", list(CHOSEN))
def test_left_out_rows_are_no_anchors(case, teachers, tiny_model_dir, tmp_path):
    """A row that is left out would still push others away."""
    changes, numbers = CHOSEN[case]
    data = table()
    trainer = build_routed(
        tmp_path, tiny_model_dir, teachers, data, **WEIGHTS, **changes, per_device_train_batch_size=8
    )
    found = rows_by_hand(tiny_model_dir, data)
    kept = [found[number] for number in numbers]
    expected = by_states("sincere", prompts_read(trainer.model, kept, [1, 2]), [row.teacher for row in kept])
    (logs,) = steps(run(trainer))
    assert logs["contrastive_loss"] == pytest.approx(expected.item(), rel=2e-5)


def test_layers_are_the_middle_ones_and_an_evaluation_reads_them_too(teachers, tmp_path):
    """Of a model of two layers one is in the middle, whichever way that is counted."""
    model = tiny_models.save_tiny_llama(tmp_path / "deep", num_hidden_layers=6)
    data = table()
    changes = {**WEIGHTS, "contrastive_layers": None, "per_device_train_batch_size": 8}
    sources = {"safety": teachers["safety"], "base": None, "third": teachers["third"]}
    trainer = build_routed(tmp_path / "run", model, sources, data, **changes, per_device_eval_batch_size=8)
    read = prompts_read(trainer.model, rows_by_hand(model, data), [3, 4, 5])
    expected = by_states("sincere", read, sides_of(data)).item()
    evaluated = trainer.evaluate(trainer.train_dataset)
    assert evaluated["eval_contrastive_loss"] == pytest.approx(expected, rel=2e-5)
    (logs,) = steps(run(trainer))
    assert logs["contrastive_loss"] == pytest.approx(expected, rel=2e-5)


def test_sides_are_those_of_a_soft_route(given, tiny_model_dir, tmp_path):
    """Sides of other rows would draw refusals to the answers."""
    data = table([None] * 8).remove_columns("teacher")
    trainer = build_soft(tmp_path, tiny_model_dir, given, data, **WEIGHTS, per_device_train_batch_size=8)
    _, shares, _ = soft_by_hand(trainer, given, rows_of(tiny_model_dir, data))
    sides = [p > 0.5 for p in shares]
    assert len({*sides}) == 2
    expected = by_states("sincere", prompts_read(trainer.model, rows_of(tiny_model_dir, data), [1, 2]), sides)
    (logs,) = steps(run(trainer))
    assert logs["contrastive_loss"] == pytest.approx(expected.item(), rel=2e-5)


def test_resumed_run_goes_on_to_the_last_bit(teachers, tiny_model_dir, tmp_path):
    """Nothing of this level is remembered, and nothing of it may be looked for in a checkpoint."""
    changes = {**RESUMED, **WEIGHTS, "task_weight": 1.0, "contrastive_queue_size": 0, "per_device_train_batch_size": 4}
    whole = run(build_routed(tmp_path / "whole", tiny_model_dir, teachers, **changes))
    cut = build_routed(tmp_path / "cut", tiny_model_dir, teachers, **changes)
    cut.add_callback(Stop(3))
    run(cut)
    resumed = build_routed(tmp_path / "cut", tiny_model_dir, teachers, **changes)
    resumed.train(resume_from_checkpoint=True)
    same_resumed(resumed, whole)


def test_one_teacher_gives_no_sides(teachers, tiny_model_dir, tmp_path):
    """All prompts would be on one side, or each on its own."""
    with pytest.raises(ValueError, match=r"contrastive_level='state': one teacher .* what to part.*soft route"):
        build_routed(tmp_path, tiny_model_dir, {"safety": teachers["safety"]}, table(["safety"] * 8), **WEIGHTS)


def test_teacher_that_promises_sides_and_gives_none_is_told(teachers, tiny_model_dir, tmp_path, monkeypatch):
    """A class of one's own that is marked `sided` would end in an assertion without a word."""
    trainer = build_routed(tmp_path, tiny_model_dir, teachers, table(["safety", "base"] * 4), **WEIGHTS)
    monkeypatch.setattr("hf_ckt.objective.candidates.sides_of", lambda *_: None)
    with pytest.raises(ValueError, match=r"contrastive_level='state': the teacher is marked `sided`.*MixedSignal"):
        run(trainer)


def test_layer_that_the_model_does_not_have_is_refused(teachers, tiny_model_dir, tmp_path):
    """It would end in an index out of range, at the first batch."""
    changes = {**WEIGHTS, "contrastive_layers": [1, 3], "per_device_train_batch_size": 8}
    with pytest.raises(ValueError, match=r"contrastive_layers: 3 is none of the model's 2 layers"):
        build_routed(tmp_path, tiny_model_dir, teachers, table(), **changes)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_layers_below_the_adapter_are_refused(checkpointing, teachers, tiny_model_dir, tmp_path):
    """A term that trains nothing looks like one that does not fall; checkpointed, its states seem to have a gradient."""
    upper = {"peft_config": lora(exclude_modules=r".*layers\.0\..*"), "teachers": teachers}
    changes = {**by_hand.SGD, **WEIGHTS, "per_device_train_batch_size": 8, "gradient_checkpointing": checkpointing}
    with pytest.raises(ValueError, match=r"nothing that trains lies below layer 1.*Name higher layers"):
        build(tmp_path, tiny_model_dir, table(), given=upper, **changes)
    build(tmp_path, tiny_model_dir, table(), given=upper, **{**changes, "contrastive_layers": [2]})
