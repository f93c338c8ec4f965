# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint holds beside weights and optimizer: once for the run, once for each process, and of which teacher."""

import logging
import re
import shutil
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from hf_ckt.noise.mixture import Mixture
from hf_ckt.noise.noisy_view import NoisyView
from hf_ckt.objective.budget import ConsistencyBudget
from hf_ckt.objective.candidates import Contrast, TeacherQueue
from hf_ckt.perturbations.adversarial import AdversarialPerturbation
from hf_ckt.training.state import TrainingState
from tests import tiny_models
from tests.runs import OFF
from tests.trainers import build, load, lora, run, steps


def state(multiplier=0.5, size=4, states=None, noise=None, teacher=None):
    queue = TeacherQueue(size)
    queue.states = states
    noisy = NoisyView(Mixture.of(AdversarialPerturbation()), warm_start=True)
    noisy.previous = noise
    budget = ConsistencyBudget(Accelerator(cpu=True), budget=1.0, rate=0.1, multiplier=multiplier)
    return TrainingState(Contrast("token", 8, queue), noisy, budget, teacher)


def test_a_queue_keeps_the_sides_of_its_states(tmp_path):
    """Cut at another end than its states, each side would be read at another's place."""
    first = state(states=torch.arange(4.0)[:, None])
    first.contrast.queue.sides = torch.tensor([0, 1, 1, 2])
    first.save(str(tmp_path), 0)
    for size, kept in ((9, [0, 1, 1, 2]), (3, [1, 1, 2])):
        restored = state(size=size)
        restored.restore(str(tmp_path), 0)
        assert restored.contrast.queue.sides.tolist() == kept
        assert len(restored.contrast.queue.states) == len(kept)
    # What an attempt has pushed is taken back with its sides, and a skipped step drops both.
    remembered = restored.remember()
    restored.contrast.queue.push(torch.ones(1, 1), torch.tensor([7]))
    assert restored.contrast.queue.sides.tolist() == [1, 2, 7]
    restored.put_back(remembered)
    assert restored.contrast.queue.sides.tolist() == [1, 1, 2]
    restored.forget_step()
    assert restored.contrast.queue.states is restored.contrast.queue.sides is None


def test_a_checkpoint_of_before_there_were_sides_is_read(tmp_path):
    """A run that began with an older version could not go on."""
    state(states=torch.arange(4.0)[:, None]).save(str(tmp_path), 0)
    restored = state()
    restored.contrast.queue.sides = torch.tensor([1])
    restored.restore(str(tmp_path), 0)
    assert len(restored.contrast.queue.states) == 4 and restored.contrast.queue.sides is None


def of_rank(rank):
    """A queue and a noise that say whose they are."""
    return {"states": torch.full((4, 3), float(rank)), "noise": torch.full((5, 2), 10.0 + rank)}


@pytest.mark.parametrize(
    ("before", "after", "sources"),
    [(1, 2, [0, 0]), (2, 1, [0]), (2, 3, [0, 1, 0]), (3, 2, [0, 1]), (2, 2, [0, 1]), (1, 1, [0])],
)
def test_a_run_goes_on_with_another_number_of_processes(before, after, sources, tmp_path, caplog):
    """A process without a file of its own began anew: multipliers of 7.25 and 0.5 in one run."""
    for rank in range(before):
        state(7.25, **of_rank(rank)).save(str(tmp_path), rank, before)
    for rank in range(after):
        restored = state()
        restored.restore(str(tmp_path), rank, after)
        assert restored.budget.multiplier == 7.25 and restored.budget.weight == 0.5
        expected = of_rank(sources[rank])
        assert torch.equal(restored.contrast.queue.states, expected["states"])
        assert torch.equal(restored.noisy.previous, expected["noise"])
    said = [message for message in caplog.messages if "processes" in message]
    assert len(said) == int(before != after)


def test_what_is_the_runs_is_written_once(tmp_path):
    """Two files that both hold the multiplier can differ, and one of them wins by chance."""
    for rank in range(2):
        state(3.0, **of_rank(rank)).save(str(tmp_path), rank, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "hf_ckt_state.safetensors",
        "hf_ckt_state_0.safetensors",
        "hf_ckt_state_1.safetensors",
    ]
    # On a machine whose disk is its own, the first process of each writes it.
    state(3.0).save(str(tmp_path / "second machine"), 8, 16, shared=True)
    restored = state()
    restored.restore(str(tmp_path / "second machine"), 9, 16)
    assert restored.budget.multiplier == 3.0


def test_parts_without_state_write_no_file(tmp_path):
    """An empty file in every checkpoint would look like a state that was lost."""
    TrainingState().save(str(tmp_path), 0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("size", "kept"), [(0, None), (2, [2.0, 3.0]), (9, [0.0, 1.0, 2.0, 3.0])])
def test_a_queue_of_another_size_is_filled_from_the_newest(size, kept, tmp_path):
    """A queue that is switched off would go on with the old states for ever, and a smaller one be longer than set."""
    state(states=torch.arange(4.0)[:, None]).save(str(tmp_path), 0)
    restored = state(size=size)
    restored.restore(str(tmp_path), 0)
    found = restored.contrast.queue.states
    assert (None if found is None else found[:, 0].tolist()) == kept


def test_another_teacher_is_named(tmp_path, caplog):
    """States of one teacher, read with the head of another, are noise that looks like negatives."""
    one, two, moved = (
        {"kind": "model", "name": name, "weights": weights}
        for name, weights in (("org/one", "aa11"), ("org/two", "bb22"), ("disk/one", "aa11"))
    )
    state(states=torch.ones(4, 3), teacher=one).save(str(tmp_path), 0)
    restored = state(teacher=moved)
    restored.restore(str(tmp_path), 0)
    assert restored.contrast.queue.states is not None and not caplog.messages
    with pytest.raises(ValueError, match=r"'org/one' \(aa11\).*'org/two' \(bb22\).*contrastive_queue_size=0"):
        state(teacher=two).restore(str(tmp_path), 0)
    own_base = {"kind": "self", "name": "the student's own base, adapters off"}
    with pytest.raises(ValueError, match=r"'org/one'.*own base"):
        state(teacher=own_base).restore(str(tmp_path), 0)
    # Nothing of the first teacher is used where there is no queue; the change is still worth a line.
    with caplog.at_level(logging.WARNING):
        state(size=0, teacher=two).restore(str(tmp_path), 0)
    assert len(caplog.messages) == 1 and "org/one" in caplog.messages[0] and "org/two" in caplog.messages[0]


def manifest(**members):
    known = {"kind": "model", "name": "org/one", "weights": "aa11", "unquantized": "cc33", "revision": "1" * 40}
    return {"kind": "routed", "teachers": {name: {**known, **change} for name, change in members.items()}}


@pytest.mark.parametrize(
    ("now", "message"),
    [
        ({"base": {}, "safety": {"weights": "bb22", "name": "org/two"}}, "teacher 'safety' is 'org/one'.*its weights"),
        (
            {"base": {"kind": "self", "weights": None}, "safety": {}},
            "teacher 'base' is .*another one by its weights, kind",
        ),
        ({"base": {}, "safety": {"adapter": "LORA"}}, "teacher 'safety' is .*another one by its adapter"),
        ({"base": {}, "guard": {}}, "teachers are base, safety, and this run's are base, guard"),
        ({"base": {}}, "teachers are base, safety, and this run's are base"),
    ],
)
def test_which_of_several_teachers_is_another_is_said(now, message, tmp_path):
    """Of four teachers one was exchanged, and the two lists of names and digits look alike."""
    before = manifest(base={}, safety={})
    state(states=torch.ones(4, 3), teacher=before).save(str(tmp_path), 0)
    with pytest.raises(ValueError, match=message) as raised:
        state(teacher=manifest(**now)).restore(str(tmp_path), 0)
    assert str(raised.value).count("org/one") <= 2  # of the others nothing is said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"quantization": "nf4", "weights": "ff44"}, "the teacher 'safety' has the quantization nf4, .* none"),
        ({"revision": "2" * 40}, "the teacher 'safety' has the revision 2222"),
        ({"kind": "cache", "dtype": "bfloat16"}, "the teacher 'safety' has the (kind cache|dtype bfloat16)"),
        ({"revision": None, "name": "/disk/one", "base": {"name": "b", "revision": None}}, None),
    ],
)
def test_the_same_teacher_otherwise_held_is_worth_a_line(change, said, tmp_path, caplog):
    """A run that went on in 4 bits, since the other card was taken, need not begin anew."""
    state(states=torch.ones(4, 3), teacher=manifest(base={}, safety={})).save(str(tmp_path), 0)
    restored = state(teacher=manifest(base={}, safety=change))
    with caplog.at_level(logging.WARNING):
        restored.restore(str(tmp_path), 0)
    assert torch.equal(restored.contrast.queue.states, torch.ones(4, 3))
    assert len(caplog.messages) == bool(said)
    assert all(re.search(said, message) for message in caplog.messages)


def test_a_teacher_within_another_is_compared_too(tmp_path):
    """Behind a context of its own another model would pass for the same."""
    inner = manifest(one={})["teachers"]["one"]
    whole = {"kind": "privileged_context", "name": "a", "context": "ab12", "teacher": inner}
    state(states=torch.ones(4, 3), teacher=whole).save(str(tmp_path), 0)
    state(teacher={**whole, "teacher": {**inner, "quantization": "nf4"}}).restore(str(tmp_path), 0)
    with pytest.raises(ValueError, match=r"teacher 'within' is 'org/one' .*by its weights"):
        state(teacher={**whole, "teacher": {**inner, "weights": "bb22"}}).restore(str(tmp_path), 0)
    with pytest.raises(ValueError, match=r"privileged_context of 'org/one' .*by its context"):
        state(teacher={**whole, "context": "cd34"}).restore(str(tmp_path), 0)


def test_teachers_in_another_order_are_others(tmp_path):
    """Rows that name none hear the first."""
    before = {**manifest(one={}, two={}), "order": ["one", "two"]}
    state(states=torch.ones(4, 3), teacher=before).save(str(tmp_path), 0)
    with pytest.raises(ValueError, match="another one by its order"):
        state(teacher={**manifest(two={}, one={}), "order": ["two", "one"]}).restore(str(tmp_path), 0)


def test_a_teacher_in_other_bits_with_other_weights_is_another(tmp_path):
    """What is never quantized differs: a change of precision does not excuse it."""
    state(states=torch.ones(4, 3), teacher=manifest(one={})).save(str(tmp_path), 0)
    other = manifest(one={"quantization": "nf4", "weights": "ff44", "unquantized": "dd55"})
    with pytest.raises(ValueError, match=r"another one by its weights, quantization\."):
        state(teacher=other).restore(str(tmp_path), 0)


CHANGES = {
    **OFF,
    "contrastive_weight": 0.3,
    "contrastive_queue_size": 12,
    "max_steps": 2,
    "save_strategy": "steps",
    "save_steps": 1,
}


def contrast_run(folder: Path, model: Path, teacher, **changes):
    given = {"peft_config": lora(), **({} if teacher is None else {"teacher_model": teacher})}
    return build(folder, model, given=given, **{**CHANGES, **changes})


def test_resuming_with_a_teacher_of_another_width_names_both(tiny_model_dir, tmp_path):
    """It ended in an error of torch.cat about sizes, which says nothing of the teacher."""
    wide = tiny_models.save_tiny_llama(tmp_path / "wide", hidden_size=48)
    same_width = tiny_models.save_tiny_llama(tmp_path / "other", seed=1)
    run(contrast_run(tmp_path / "run", tiny_model_dir, str(wide)))
    checkpoint = str(tmp_path / "run" / "checkpoint-1")
    for teacher, name in ((str(tiny_model_dir), tiny_model_dir.name), (str(same_width), "other"), (None, "own base")):
        trainer = contrast_run(tmp_path / "again", tiny_model_dir, teacher)
        with pytest.raises(ValueError, match=rf"resume_from_checkpoint: .*wide.*{name}.*another one by its weights"):
            trainer.train(resume_from_checkpoint=checkpoint)
    # The way out that the message names, and the teacher in another place and precision.
    without = contrast_run(tmp_path / "again", tiny_model_dir, str(same_width), contrastive_queue_size=0)
    without.train(resume_from_checkpoint=checkpoint)
    assert without.state.global_step == 2 and without.objective.contrast.queue.states is None
    shutil.move(wide, tmp_path / "moved")
    same = contrast_run(tmp_path / "again", tiny_model_dir, load(tmp_path / "moved").to(torch.bfloat16).float())
    same.train(resume_from_checkpoint=checkpoint)
    assert same.objective.contrast.queue.states.shape == (12, 48)


def test_distillation_from_another_teacher_goes_on_and_says_so(tiny_model_dir, tmp_path, caplog):
    """Nothing of the old teacher is used again, so there is nothing to refuse; silence would hide a slip."""
    other = tiny_models.save_tiny_llama(tmp_path / "other", seed=1)
    changes = {**OFF, "distillation_weight": 1.0, "contrastive_queue_size": 0}
    run(contrast_run(tmp_path / "run", tiny_model_dir, None, **changes))
    trainer = contrast_run(tmp_path / "run", tiny_model_dir, str(other), **changes)
    with caplog.at_level(logging.WARNING):
        trainer.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-1"))
    assert trainer.state.global_step == 2 and "distillation_loss" in steps(trainer)[-1]
    assert any("own base" in message and "other" in message for message in caplog.messages)
