# SPDX-License-Identifier: Apache-2.0
"""A teacher with another tokenizer; `make` is what the contracts compare it by."""

import pytest
import torch
from peft import LoraConfig

from hf_ckt.models.foreign_tokenizer import ForeignTokenizer
from hf_ckt.teachers.cross_tokenizer import CrossTokenizerTeacher
from hf_ckt.teachers.model import ModelTeacher
from tests import tiny_models
from tests.teachers.signals import DISTIL, dense
from tests.trainers import build, load, lora, run, steps


def make(student_folder, tmp_path):
    """The teacher, its tokenizer the student's own taken as another one, so that all positions are matched."""
    folder = tiny_models.save_tiny_llama(tmp_path / "other", seed=7)
    tokenizers = ForeignTokenizer(tiny_models.build_tokenizer(), tiny_models.build_tokenizer())
    return CrossTokenizerTeacher(ModelTeacher(load(folder)), tokenizers), lambda batch: dense(load(folder), batch)


@pytest.mark.parametrize("loss", ["forward_kl", "reverse_kl", "jensen_shannon", "total_variation", "universal_logit"])
def test_a_students_own_base_taken_as_foreign_is_at_no_distance(loss, tiny_model_dir, tmp_path):
    """Anything but 0 is a state of another position, a token under another's name, or mass that was lost on the way."""
    given = {
        "teacher_model": {"cross_tokenizer": str(tiny_model_dir)},
        "peft_config": LoraConfig(target_modules="all-linear", r=4),
    }
    first = steps(run(build(tmp_path, tiny_model_dir, given=given, **DISTIL, distillation_loss=loss)))[0]
    assert first["distillation_loss"] == pytest.approx(0, abs=1e-6)
    assert first["teacher_matched"] == 1 and first["teacher_merged"] == 0
    assert first["teacher_agreement"] == 1 and first["acceptance"] == pytest.approx(1, abs=1e-6)
