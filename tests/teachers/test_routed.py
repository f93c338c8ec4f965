# SPDX-License-Identifier: Apache-2.0
"""Several teachers, each on its own rows; `make` is what the contracts compare it by."""

from hf_ckt.teachers.model import ModelTeacher
from hf_ckt.teachers.routed import RoutedTeacher
from tests import tiny_models
from tests.teachers.signals import dense
from tests.trainers import load


def make(student_folder, tmp_path):
    """The teacher, and from a batch the logits that it must give at the kept positions: all rows hear the first."""
    one, two = (tiny_models.save_tiny_llama(tmp_path / name, seed=seed) for name, seed in (("one", 7), ("two", 8)))
    teacher = RoutedTeacher({"one": ModelTeacher(load(one)), "two": ModelTeacher(load(two))})
    return teacher, lambda batch: dense(load(one), batch)
