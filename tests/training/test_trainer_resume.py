# SPDX-License-Identifier: Apache-2.0
"""A run that is cut off and resumed is the run that was not."""

import shutil

import pytest
import torch
from safetensors.torch import load_file

from hf_ckt.discovery import part_names
from tests.trainers import OFF, ON, Stop, build, lora, run, steps, trained

# Everything that has a state of its own: dropout, noise, queue, schedules, optimizer, shuffling.
CHANGES = {
    "max_steps": 6,
    "per_device_train_batch_size": 2,
    "train_sampling_strategy": "random",
    "contrastive_queue_size": 40,
    "distillation_schedule": "linear",
    "distillation_weight_end": 2.0,
    "regularization_loss": "reference_kl",
    "save_strategy": "steps",
    "save_steps": 3,
    **ON,
}


def make(folder, model, **changes):
    callbacks = changes.pop("callbacks", [])
    given = {"peft_config": lora(lora_dropout=0.2), "callbacks": callbacks}
    return build(folder, model, given=given, **{**CHANGES, **changes})


def same_steps(found, expected):
    for mine, theirs in zip(found, expected, strict=True):
        # SFTTrainer, too, counts the tokens anew after a resume.
        assert {**mine, "num_tokens": 0} == {**theirs, "num_tokens": 0}


@pytest.fixture(scope="module")
def whole(tiny_model_dir, tmp_path_factory):
    """The run of six steps in one go, with its checkpoints."""
    return run(make(tmp_path_factory.mktemp("whole"), tiny_model_dir))


def test_a_resumed_run_equals_the_whole_one(whole, tiny_model_dir, tmp_path):
    """Noise, queue or schedule that start anew give a run that cannot be reproduced, and no sign of it."""
    run(make(tmp_path, tiny_model_dir, callbacks=[Stop(3)]))
    resumed = make(tmp_path, tiny_model_dir)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 6
    same_steps(steps(resumed), steps(whole))
    expected = trained(whole)
    assert all(torch.equal(value, expected[name]) for name, value in trained(resumed).items())
    assert torch.equal(resumed.objective.contrast.queue.states, whole.objective.contrast.queue.states)


def test_the_queue_matters_to_a_resumed_run(whole, tiny_model_dir, tmp_path):
    """Were it not for the saved queue, the test above would prove nothing about it."""
    shutil.copytree(whole.args.output_dir, tmp_path / "run")
    checkpoint = tmp_path / "run" / "checkpoint-3"
    states = load_file(checkpoint / "hf_ckt_state_0.safetensors")["contrastive_queue"]
    assert states.shape == (40, 32)
    (checkpoint / "hf_ckt_state_0.safetensors").unlink()
    resumed = make(tmp_path / "run", tiny_model_dir)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert steps(resumed)[3]["contrastive_loss"] != steps(whole)[3]["contrastive_loss"]
    assert steps(resumed)[3]["distillation_loss"] == steps(whole)[3]["distillation_loss"]


def test_a_half_written_checkpoint_is_passed_over(whole, tiny_model_dir, tmp_path):
    """A kill while saving leaves a folder that Trainer would take for the last checkpoint, and fail on."""
    shutil.copytree(whole.args.output_dir, tmp_path / "run")
    (tmp_path / "run" / "checkpoint-6" / "trainer_state.json").unlink()
    resumed = make(tmp_path / "run", tiny_model_dir)
    resumed.train(resume_from_checkpoint=True)
    same_steps(steps(resumed), steps(whole))
    expected = trained(whole)
    assert all(torch.equal(value, expected[name]) for name, value in trained(resumed).items())


def test_resuming_without_a_checkpoint_says_so(tiny_model_dir, tmp_path):
    """Starting anew in silence would overwrite what the user believes to go on."""
    with pytest.raises(ValueError, match=r"resume_from_checkpoint=True: .*no complete checkpoint.*start anew"):
        make(tmp_path, tiny_model_dir).train(resume_from_checkpoint=True)


def test_a_run_of_two_epochs_resumes_with_zero_extra_weights_too(tiny_model_dir, tmp_path):
    """The plain task has its own path through `train`."""
    changes = {**CHANGES, **OFF, "contrastive_queue_size": 0}
    given = {"peft_config": lora(lora_dropout=0.2)}
    whole = run(build(tmp_path / "whole", tiny_model_dir, given=given, **changes))
    run(build(tmp_path / "cut", tiny_model_dir, given={**given, "callbacks": [Stop(3)]}, **changes))
    resumed = build(tmp_path / "cut", tiny_model_dir, given=given, **changes)
    resumed.train(resume_from_checkpoint=True)
    same_steps(steps(resumed), steps(whole))


PERTURBED = {
    **{name: {"perturbation": name, "perturbation_severity": 0.4} for name in part_names("perturbations")},
    "mixture, warm": {
        "perturbation": {"typos": 0.3, "token_replacement": 0.3, "adversarial": 0.4},
        "perturbation_warm_start": True,
        "perturbation_severity_schedule": "linear",
        "perturbation_severity_end": 1.0,
    },
    "budget, every other step": {
        "perturbation": "word_dropout",
        "perturbation_severity": 0.5,
        "consistency_budget": 0.01,
        "consistency_budget_rate": 0.5,
        "consistency_every": 2,
        "consistency_fraction": 0.7,
    },
}


@pytest.mark.parametrize("case", list(PERTURBED))
def test_a_resumed_run_sees_the_noise_of_the_whole_one(case, tiny_model_dir, tmp_path):
    """Seeds by anything but run, step and text, or a multiplier that starts anew, make another run of it."""
    changes = {
        **OFF,
        "consistency_weight": 1.0,
        "max_steps": 5,
        "per_device_train_batch_size": 2,
        "train_sampling_strategy": "random",
        "save_strategy": "steps",
        "save_steps": 3,
        **PERTURBED[case],
    }
    given = {"peft_config": lora(lora_dropout=0.2)}
    whole = run(build(tmp_path / "whole", tiny_model_dir, given=given, **changes))
    run(build(tmp_path / "cut", tiny_model_dir, given={**given, "callbacks": [Stop(3)]}, **changes))
    resumed = build(tmp_path / "cut", tiny_model_dir, given=given, **changes)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 5
    same_steps(steps(resumed), steps(whole))
    expected = trained(whole)
    assert all(torch.equal(value, expected[name]) for name, value in trained(resumed).items())
    assert sum(step.get("consistency_loss", 0) > 0 for step in steps(whole)) >= 3
    if "budget" in case:
        found = [step["consistency_multiplier"] for step in steps(whole)]
        assert len(set(found)) == 3  # it moves after the steps 1, 3 and 5, and is logged before that


@pytest.mark.parametrize("name", ["search_noise", "consistency_multiplier"])
def test_saved_state_matters_to_a_resumed_run(name, tiny_model_dir, tmp_path):
    """Were it not for the saved state, the test above would prove nothing about it."""
    case = "mixture, warm" if name == "search_noise" else "budget, every other step"
    changes = {**OFF, "consistency_weight": 1.0, "max_steps": 5, "save_strategy": "steps", "save_steps": 3}
    changes |= {**PERTURBED[case], "per_device_train_batch_size": 2}
    given = {"peft_config": lora()}
    whole = run(build(tmp_path / "run", tiny_model_dir, given=given, **changes))
    # The noise is each process's own, the multiplier the run's.
    file = "hf_ckt_state_0.safetensors" if name == "search_noise" else "hf_ckt_state.safetensors"
    state = tmp_path / "run" / "checkpoint-3" / file
    assert name in load_file(state)
    state.unlink()
    resumed = build(tmp_path / "run", tiny_model_dir, given=given, **changes)
    resumed.train(resume_from_checkpoint=str(state.parent))
    assert steps(resumed)[-1] != steps(whole)[-1]
