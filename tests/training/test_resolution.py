# SPDX-License-Identifier: Apache-2.0
"""Which roles are on, by what a run has."""

import pytest

from hf_ckt.training import facts
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
