# SPDX-License-Identifier: Apache-2.0
"""Runs with contrast at the decision, against whole models, one row at a time, and dense logits."""

from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests import by_hand
from tests.by_hand import build_routed, gradient, read_by_hand, rows_by_hand, same_gradient, table
from tests.trainers import Stop, run, same_resumed, steps, trained

WEIGHTS = {"task_weight": 0.0, "contrastive_weight": 1.0, "contrastive_level": "decision"}
LAYOUTS: dict[str, dict[str, Any]] = {
    "padded": {"per_device_train_batch_size": 8},
    "padding-free": {"per_device_train_batch_size": 8, "padding_free": True},
    "one pack": {"per_device_train_batch_size": 1, "packing": True, "max_length": 2000},
    "packs": {"per_device_train_batch_size": 8, "packing": True, "max_length": 150},
    "4 x 2": {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2},
    "4 x 2, queue": {
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "contrastive_queue_size": 3,
    },
    "4 x 2, padding-free": {
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "padding_free": True,
    },
}


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    return by_hand.save_teachers(tmp_path_factory.mktemp("teachers"))


def directions(logits: list[Tensor], mean: Tensor) -> Tensor:
    """Unit vectors of logits, centred over the batch's anchors and over the vocabulary."""
    centred = torch.stack(logits) - mean
    return torch.nn.functional.normalize(centred - centred.mean(-1, keepdim=True), dim=-1)


def by_logits(loss: str, read: list[Any], queued: list[Any], sided: bool) -> Tensor:
    """The mean over documents; their first answer tokens are predicted at each one's first kept position."""
    shared = read[0].student.shape[1]
    anchors = [one.student[0] for one in read]
    taught = [one.teacher[0, :shared] for one in read]
    mean = torch.stack(taught).mean(0)
    student = directions(anchors, torch.stack(anchors).mean(0))
    candidates = directions([*taught, *(one.teacher[0, :shared] for one in queued)], mean)
    values = []
    for i in range(len(read)):
        scores = candidates @ student[i] / 0.1
        alike = [float(candidates[i] @ candidate) > 0.95 for candidate in candidates]
        if sided:
            alike = [one.row.teacher == read[i].row.teacher for one in [*read, *queued]]
        alike[i] = True
        own = [score for score, same in zip(scores, alike, strict=True) if same]
        others = [score for score, same in zip(scores, alike, strict=True) if not same]
        if loss == "info_nce":
            values.append(torch.stack([scores[i], *others]).logsumexp(0) - scores[i])
        elif loss == "sincere":
            each = [torch.stack([score, *others]).logsumexp(0) - score for score in own]
            values.append(torch.stack(each).mean())
        else:
            values.append(scores.logsumexp(0) - torch.stack(own).mean())
    return torch.stack(values).mean()


@pytest.mark.parametrize("layout", list(LAYOUTS))
@pytest.mark.parametrize("given", ["several", "one"])
@pytest.mark.parametrize("loss", ["info_nce", "supervised_contrastive", "sincere"])
def test_decision_contrast_of_a_run_is_that_of_dense_logits(loss, given, layout, teachers, tiny_model_dir, tmp_path):
    """Padding, packs and accumulation each have their own way to mistake another position for the decision."""
    names = by_hand.NAMES if given == "several" else ["safety"] * 8
    data = table(names)
    sources = teachers if given == "several" else {"safety": teachers["safety"]}
    changes = {**WEIGHTS, "contrastive_loss": loss, **LAYOUTS[layout]}
    trainer = build_routed(tmp_path, tiny_model_dir, sources, data, **changes)
    read = read_by_hand(trainer, teachers, rows_by_hand(tiny_model_dir, data))
    parts = [read[:4], read[4:]] if layout.startswith("4 x 2") else [read]
    queue = changes.get("contrastive_queue_size", 0)
    queues = [[], read[4 - queue : 4]] if queue else [[], []]
    values = [by_logits(loss, part, held, given == "several") for part, held in zip(parts, queues, strict=False)]
    expected = torch.stack(values).mean()
    before, wanted = trained(trainer), gradient(trainer, expected)
    (logs,) = steps(run(trainer))
    assert logs["contrastive_loss"] == pytest.approx(expected.item(), rel=2e-5)
    after = trained(trainer)
    same_gradient({name: value - after[name] for name, value in before.items()}, wanted, rtol=1e-3, atol=2e-6)


RESUMED = {
    **WEIGHTS,
    "task_weight": 1.0,
    "contrastive_queue_size": 7,
    "optim": "adamw_torch",
    "learning_rate": 1e-2,
    "max_steps": 6,
    "per_device_train_batch_size": 2,
    "train_sampling_strategy": "random",
    "save_strategy": "steps",
    "save_steps": 3,
}


def test_resumed_run_goes_on_with_its_queues_sides(teachers, tiny_model_dir, tmp_path, caplog):
    """States without their sides are dropped, and sides of others' states mask the wrong candidates."""
    whole = run(build_routed(tmp_path / "whole", tiny_model_dir, teachers, **RESUMED))
    cut = build_routed(tmp_path / "cut", tiny_model_dir, teachers, **RESUMED)
    cut.add_callback(Stop(3))
    run(cut)
    saved = load_file(tmp_path / "cut" / "checkpoint-3" / "hf_ckt_state_0.safetensors")
    assert len(saved["contrastive_queue_sides"]) == len(saved["contrastive_queue"]) == 6
    resumed = build_routed(tmp_path / "cut", tiny_model_dir, teachers, **RESUMED)
    resumed.train(resume_from_checkpoint=True)
    same_resumed(resumed, whole)
    mine, theirs = (trainer.objective.contrast.queue for trainer in (resumed, whole))
    assert torch.equal(mine.states, theirs.states) and torch.equal(mine.sides, theirs.sides)
    assert len(mine.sides) == 7 and len(mine.sides.unique()) > 1

    # As a checkpoint was before there were sides: it is read, and its states are dropped with a word.
    path = tmp_path / "cut" / "checkpoint-3" / "hf_ckt_state_0.safetensors"
    save_file({name: value for name, value in saved.items() if name != "contrastive_queue_sides"}, path)
    again = build_routed(tmp_path / "cut", tiny_model_dir, teachers, **RESUMED)
    again.train(resume_from_checkpoint=str(path.parent))
    assert "holds 6 states of a run without sides" in caplog.text
    assert steps(again)[3]["contrastive_loss"] != steps(whole)[3]["contrastive_loss"]
    assert again.objective.contrast.queue.sides.shape == (6,)
