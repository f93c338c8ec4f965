# SPDX-License-Identifier: Apache-2.0
"""Another model as the teacher; `make` is what the contracts compare it by."""

import logging
from contextlib import contextmanager

import pytest
import torch
from peft import get_peft_model

from hf_ckt.models.batch import Batch
from hf_ckt.teachers.model import ModelTeacher
from tests import tiny_models
from tests.teachers.signals import batch_of, dense, logits_of
from tests.trainers import ON, build, load, lora, run, steps


def make(student_folder, tmp_path):
    """The teacher, and from a batch the logits that it must give at the kept positions."""
    folder = tiny_models.save_tiny_llama(tmp_path / "other", seed=7)
    return ModelTeacher(load(folder)), lambda batch: dense(load(folder), batch)


def other_model(folder, kind):
    """A teacher in one of the forms that users have, and a plain model with the same outputs."""
    other = tiny_models.save_tiny_llama(folder / "other", seed=7)
    if kind == "name":
        return str(other), load(other)
    if kind == "model":
        return load(other), load(other)
    adapted = get_peft_model(load(other), lora())
    if kind == "peft":
        torch.manual_seed(1)
        return adapted, adapted
    adapted.save_pretrained(folder / "adapter")
    if kind == "adapter_with_tokenizer":
        tiny_models.build_tokenizer().save_pretrained(folder / "adapter")
    return str(folder / "adapter"), adapted


@pytest.mark.parametrize("kind", ["name", "model", "peft", "adapter", "adapter_with_tokenizer"])
def test_model_teacher_is_read_in_every_form_and_never_moves(kind, tiny_model_dir, tmp_path, caplog):
    """A teacher that trains along drifts towards the student, and both agree on nothing."""
    teacher, expected = other_model(tmp_path, kind)
    with caplog.at_level(logging.WARNING, logger="hf_ckt"):
        trainer = build(
            tmp_path / "out",
            tiny_model_dir,
            given={"teacher_model": teacher, "peft_config": lora()},
            neftune_noise_alpha=20.0,
            **ON,
        )
    assert "no tokenizer found" not in caplog.text  # an adapter's folder has its base's tokenizer
    module = trainer._extra_passes.teacher.model
    before = {name: value.clone() for name, value in module.state_dict().items()}
    batch = batch_of(trainer)
    want = dense(expected, batch)
    run(trainer)
    torch.testing.assert_close(
        logits_of(trainer._extra_passes.teacher.signal(batch, trainer._causal_lm)), want, rtol=1e-5, atol=1e-5
    )
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert not any(p.requires_grad or p.grad is not None for p in module.parameters())
    assert not any(m.training for m in module.modules())
    assert steps(trainer)[0]["teacher_agreement"] < 0.5
    # Nothing but the student is saved or optimised.
    optimised = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert optimised == {id(p) for p in trainer.model.parameters() if p.requires_grad}


def test_a_head_that_is_whole_only_while_it_is_gathered_is_read_whole(tiny_model_dir, tmp_path, monkeypatch):
    """Under ZeRO-3 a parameter is an empty piece outside of its gathering; the head was handed on after it."""
    teacher, logits = make(tiny_model_dir, tmp_path)
    module = teacher.model.get_output_embeddings()
    whole = module.weight.data.clone()

    def gather(*_):
        module.weight.data = whole.clone()

    def release(*_):
        module.weight.data = torch.empty(0)

    @contextmanager
    def gathered(weight, bias):
        gather()
        yield
        release()

    # As deepspeed does it around a module's own pass, and in its context for all else.
    module.register_forward_pre_hook(gather)
    module.register_forward_hook(release)
    monkeypatch.setattr("hf_ckt.models._upstream.maybe_gather_lm_head_ctx", gathered)
    release()
    ids = torch.tensor([[5, 6, 7, 8, 9], [9, 8, 7, 6, 5]])
    batch = Batch({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, ids)
    signal = teacher.signal(batch, load(tiny_model_dir))
    assert module.weight.numel() == 0
    torch.testing.assert_close(signal.head.logits(signal.hidden), logits(batch))
