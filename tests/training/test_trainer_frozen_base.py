# SPDX-License-Identifier: Apache-2.0
"""Students whose adapters' switch does not give back the base: no self-teacher, no reference, a right penalty."""

import logging

import pytest
import torch
from peft import IA3Config, VeraConfig

from tests import tiny_models
from tests.runs import OFF
from tests.trainers import build, load, lora, run, steps

BASELESS = {
    "bias_all": {"bias": "all"},
    "bias_lora_only": {"bias": "lora_only"},
    "pissa": {"init_lora_weights": "pissa"},
    "olora": {"init_lora_weights": "olora"},
}
WORDS = {"bias_all": "bias='all'", "bias_lora_only": "lora_only", "pissa": "pissa"}


@pytest.fixture
def biased_model(tmp_path):
    """A model with biases: in one without, there is nothing for `bias='all'` to train."""
    folder = tiny_models.save_tiny_llama(tmp_path / "biased", attention_bias=True)
    model = load(folder)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", BASELESS)
def test_default_weights_do_not_distil_from_a_base_that_is_none(name, biased_model, tmp_path, caplog):
    """Distillation is on by default: from a drifting or another model, and the log would call it the base."""
    with caplog.at_level(logging.WARNING, logger="hf_ckt"):
        trainer = build(tmp_path / "out", biased_model, given={"peft_config": lora(**BASELESS[name])})
    assert set(trainer.objective.terms) == {"task", "consistency", "regularization"}
    (message,) = [record.getMessage() for record in caplog.records if "left at None" in record.getMessage()]
    assert (
        "distillation_weight=0 and contrastive_weight=0 (there is no teacher" in message
        and WORDS.get(name, name) in message
    )


WEIGHTS = {
    "distillation": {"distillation_weight": 1.0},
    "contrastive": {"contrastive_weight": 1.0},
    "robust": {"consistency_weight": 1.0, "consistency_target": "teacher"},
    "reference_kl": {"regularization_weight": 1.0, "regularization_loss": "reference_kl"},
    "label_trust": {"label_trust": True},
}


@pytest.mark.parametrize(("weights", "name"), [*((role, "pissa") for role in WEIGHTS), ("distillation", "bias_all")])
def test_a_term_that_reads_the_base_says_why_there_is_none(name, weights, biased_model, tmp_path):
    """Whoever sets the weight believes that it is the base that teaches."""
    with pytest.raises(ValueError, match=WORDS[name]) as error:
        build(
            tmp_path / "out",
            biased_model,
            given={"peft_config": lora(**BASELESS[name])},
            **{**OFF, **WEIGHTS[weights]},
        )
    assert "Remedy that, or set" in str(error.value)


def test_a_bias_that_the_model_does_not_have_is_no_obstacle(tiny_model_dir, tmp_path):
    """`bias='all'` on a Llama trains no bias; refusing it would take the teacher from those who only set the option."""
    trainer = build(tmp_path, tiny_model_dir, given={"peft_config": lora(bias="all", init_lora_weights=True)})
    assert "distillation" in trainer.objective.terms
    assert steps(run(trainer))[0]["distillation_loss"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", ["pissa", "olora"])
def test_a_second_copy_teaches_where_the_base_was_rewritten(name, biased_model, tmp_path):
    """The remedy that the message names: at the start the student is the base, so that the distance is 0 there."""
    given = {"peft_config": lora(**BASELESS[name]), "teacher_model": str(biased_model)}
    weights = {**OFF, "distillation_weight": 1.0, "regularization_weight": 1.0}
    trainer = build(tmp_path / "out", biased_model, given=given, max_steps=3, learning_rate=1e-3, **weights)
    modules = [module for module in trainer.model.modules() if getattr(module, "lora_A", None)]
    first = [module.get_delta_weight("default").detach().clone() for module in modules]
    logs = steps(run(trainer))
    assert logs[0]["distillation_loss"] == pytest.approx(0, abs=1e-5) and logs[2]["distillation_loss"] > 1e-4
    # The penalty of the third step is that of the weights after the second, below that of those after the third.
    moved = [(m.get_delta_weight("default") - one).square().sum() for m, one in zip(modules, first, strict=True)]
    assert logs[0]["regularization_loss"] == 0
    assert 0 < logs[1]["regularization_loss"] < logs[2]["regularization_loss"] < torch.stack(moved).sum().item() < 5


def test_an_adapter_whose_distance_is_not_known_trains_without_the_penalty(tiny_model_dir, tmp_path, caplog):
    """The squared norm of VeRA's parameters is not 0 where they change nothing."""
    given = {"peft_config": VeraConfig(target_modules="all-linear", r=4)}
    with caplog.at_level(logging.WARNING, logger="hf_ckt"):
        trainer = build(tmp_path, tiny_model_dir, given=given)
    assert "regularization_weight=0 (adapter_l2 does not know the distance of VERA adapters" in caplog.text
    assert set(trainer.objective.terms) == {"task", "distillation", "contrastive", "consistency"}
    assert "loss" in steps(run(trainer))[0]
    with pytest.raises(ValueError, match=r"regularization_weight=1: adapter_l2 does not know.*VERA.*reference_kl"):
        build(tmp_path, tiny_model_dir, given=given, **{**OFF, "regularization_weight": 1.0})


def test_the_penalty_alone_leaves_ia3_where_it_is(tiny_model_dir, tmp_path):
    """Towards 0 instead of 1 it moved the student away from its base by itself."""
    config = IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"])
    weights = {**OFF, "task_weight": 0.0, "regularization_weight": 1.0}
    trainer = build(tmp_path, tiny_model_dir, given={"peft_config": config}, max_steps=3, **weights)
    logs = steps(run(trainer))
    assert [entry["regularization_loss"] for entry in logs] == [0, 0, 0]
    assert all((p == 1).all() for name, p in trainer.model.named_parameters() if "ia3" in name)
