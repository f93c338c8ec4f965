# SPDX-License-Identifier: Apache-2.0
"""The student's own base as the teacher; `make` is what the contracts compare it by."""

import pytest
import torch
from datasets import Dataset
from peft import IA3Config

from hf_ckt.teachers.self import SelfTeacher
from tests.runs import rows
from tests.teachers.signals import DISTIL, batch_of, dense, logits_of
from tests.trainers import build, load, lora


def make(student_folder, tmp_path):
    """The teacher, and from a batch the logits that it must give at the kept positions."""
    return SelfTeacher(), lambda batch: dense(load(student_folder), batch)


ADAPTERS = {
    "lora": lora,
    "rslora": lambda: lora(use_rslora=True),
    "dora": lambda: lora(use_dora=True),
    "dropout": lambda: lora(lora_dropout=0.5),
    "head": lambda: lora(modules_to_save=["lm_head"], exclude_modules=["lm_head"]),
    "ia3": lambda: IA3Config(
        target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"], init_ia3_weights=False
    ),
}


@pytest.mark.parametrize("name", list(ADAPTERS))
def test_self_teacher_is_the_base_model(name, tiny_model_dir, tmp_path):
    """A switch that leaves one adapted layer on would distil the student into itself."""
    trainer = build(tmp_path, tiny_model_dir, given={"peft_config": ADAPTERS[name]()}, **DISTIL)
    batch = batch_of(trainer)
    with torch.no_grad():  # as training would leave them
        for n, p in trainer.model.named_parameters():
            if p.requires_grad:
                p.add_(0.05 if "lora" not in n else 0.0)
    trainer.model.train()
    base = dense(load(tiny_model_dir), batch)
    found = logits_of(SelfTeacher().signal(batch, trainer._causal_lm))
    torch.testing.assert_close(found, base, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(dense(trainer.model, batch), base, atol=1e-2)


@pytest.mark.parametrize("name", list(ADAPTERS))
def test_self_teacher_leaves_the_student_as_it_was(name, tiny_model_dir, tmp_path):
    """peft's own switch un-freezes weights, and eval mode left behind ends dropout for the rest of the run."""
    trainer = build(tmp_path, tiny_model_dir, given={"peft_config": ADAPTERS[name]()}, **DISTIL)
    trainer.model.train()
    frozen = next(p for p in trainer.model.parameters() if p.requires_grad)
    frozen.requires_grad_(False)
    trainer.model.base_model.model.model.norm.eval()
    state = {n: (m.training, getattr(m, "_disable_adapters", None)) for n, m in trainer.model.named_modules()}
    needs = {n: p.requires_grad for n, p in trainer.model.named_parameters()}
    active = trainer.model.active_adapters
    signal = SelfTeacher().signal(batch_of(trainer), trainer._causal_lm)
    assert not signal.hidden.requires_grad and not signal.head.weight.requires_grad
    assert {n: (m.training, getattr(m, "_disable_adapters", None)) for n, m in trainer.model.named_modules()} == state
    assert {n: p.requires_grad for n, p in trainer.model.named_parameters()} == needs
    assert trainer.model.active_adapters == active


def test_unused_rows_do_not_matter_to_the_self_teacher(tiny_model_dir, tmp_path):
    """A padded row must give the kept positions of the same text without padding."""
    trainer = build(tmp_path, tiny_model_dir, Dataset.from_list(rows(3)), given={"peft_config": lora()}, **DISTIL)
    batch = batch_of(trainer)
    whole = logits_of(SelfTeacher().signal(batch, trainer._causal_lm))
    base = load(tiny_model_dir).eval()
    alone = []
    for row, labels, mask in zip(batch.inputs["input_ids"], batch.labels, batch.inputs["attention_mask"], strict=True):
        length = int(mask.sum())
        with torch.no_grad():
            logits = base(input_ids=row[None, :length]).logits[0]
        alone.append(logits[: length - 1][labels[1:length] != -100])
    torch.testing.assert_close(whole, torch.cat(alone), rtol=1e-4, atol=1e-4)
