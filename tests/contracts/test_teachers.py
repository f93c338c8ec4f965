# SPDX-License-Identifier: Apache-2.0
"""What every teacher keeps, whatever its file."""

import pytest
import torch

from hf_ckt.discovery import load_part, part_names
from tests.contracts.documentation import check_documentation
from tests.contracts.own_test import from_own_test, said_of
from tests.teachers.signals import DISTIL, batch_of, logits_of, teacher_on
from tests.trainers import build, lora

each_teacher = pytest.mark.parametrize("name", part_names("teachers"))


@each_teacher
def test_teacher_gives_the_logits_of_its_own_test_and_leaves_the_student_alone(name, tiny_model_dir, tmp_path):
    """Read at other positions, or from a student that it changed on the way, it teaches noise that falls all the same."""
    teacher, expected = from_own_test("teachers", name, "make")(tiny_model_dir, tmp_path)
    trainer = build(tmp_path / "run", tiny_model_dir, given={"peft_config": lora()}, **DISTIL)
    teacher = teacher_on(trainer, teacher)
    batch = said_of(teacher, "as_read", lambda batch: batch)(batch_of(trainer))
    student = trainer.model.train()

    def state():
        training = {key: module.training for key, module in student.named_modules()}
        return training, {key: value.requires_grad for key, value in student.named_parameters()}

    before, values = state(), {key: value.clone() for key, value in student.state_dict().items()}
    signal = teacher.signal(batch, trainer._causal_lm)
    assert not logits_of(signal).requires_grad
    assert state() == before and student.active_adapters == ["default"]
    assert all(torch.equal(value, values[key]) for key, value in student.state_dict().items())
    torch.testing.assert_close(logits_of(signal), expected(batch), rtol=1e-5, atol=1e-5)


@each_teacher
def test_teacher_documents_itself(name):
    """The docstring is the specification that the values are tested against."""
    check_documentation(load_part("teachers", name), example=False)
