# SPDX-License-Identifier: Apache-2.0
"""Which roles are on, by what a run has."""

import logging

import pytest

from hf_ckt.training import facts
from tests.runs import OFF
from tests.trainers import build, lora


def test_a_penalty_on_weights_is_off_or_refused_where_zero3_takes_them_apart(tiny_model_dir, tmp_path, monkeypatch):
    """Each process would square its own empty piece of the adapter: a penalty of 0 that holds nothing."""

    def terms(**changes):
        return build(tmp_path, tiny_model_dir, given={"peft_config": lora()}, **changes).objective.terms

    assert "regularization" in terms(regularization_weight=0.1)
    monkeypatch.setattr(facts, "is_deepspeed_zero3_enabled", lambda: True)
    assert "regularization" not in terms(regularization_weight=None)
    with pytest.raises(ValueError, match=r"regularization_weight=0.1: adapter_l2 reads whole weights.*reference_kl"):
        terms(regularization_weight=0.1)
    assert "regularization" in terms(regularization_weight=0.1, regularization_loss="reference_kl")


@pytest.mark.filterwarnings("ignore:`compute_loss_func` is deprecated:FutureWarning")
def test_a_reason_for_several_weights_is_said_once(tiny_model_dir, tmp_path, caplog):
    """Four times the same sentence in one line is read by nobody."""
    weights = dict.fromkeys(
        ("distillation_weight", "contrastive_weight", "consistency_weight", "regularization_weight")
    )
    with caplog.at_level(logging.WARNING, logger="hf_ckt"):
        build(tmp_path, tiny_model_dir, given={"compute_loss_func": lambda *_, **__: 0}, **weights)
    (message,) = [record.getMessage() for record in caplog.records if "left at None" in record.getMessage()]
    assert message == (
        "Weights that were left at None: distillation_weight=0 and contrastive_weight=0 and consistency_weight=0 and "
        "regularization_weight=0 (compute_loss_func replaces the loss that the extra terms are added to)."
    )


def test_a_teacher_that_no_term_reads_is_said(tiny_model_dir, tmp_path, caplog):
    """The run would be SFT, and its user would report what the teacher had taught."""
    given = {"teacher_model": str(tiny_model_dir)}
    with caplog.at_level(logging.WARNING):
        for weights in (OFF, {**OFF, "regularization_weight": 0.1}):
            caplog.clear()
            build(tmp_path, tiny_model_dir, given={**given, "peft_config": lora()}, **weights)
            assert "teacher_model: no term of this run reads a teacher" in caplog.text
        caplog.clear()
        build(tmp_path, tiny_model_dir, given=given, **{**OFF, "distillation_weight": 1.0})
        assert "no term of this run" not in caplog.text
