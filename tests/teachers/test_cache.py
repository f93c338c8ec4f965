# SPDX-License-Identifier: Apache-2.0
"""What teachers said, read from files; `make` is what the contracts compare it by."""

import json
import logging
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from datasets import Dataset

from hf_ckt.models.batch import Batch
from hf_ckt.models.signal_store.records import bytes_per_position, decode, encode
from hf_ckt.teachers.base import TeacherSetup
from hf_ckt.teachers.cache import CacheTeacher
from hf_ckt.training.teacher_cache import cache_teachers, measured_errors
from tests import tiny_models
from tests.runs import OFF, rows
from tests.teachers.signals import DISTIL, batch_of, dense, logits_of
from tests.trainers import build, first_batch, history, load, lora, run, same_run, steps, trained

SETUP = TeacherSetup(tiny_models.build_tokenizer())


def write_cache(folder, student, teacher, data=None, dtype="float32", given=None, **changes):
    """Writes what a model says of the data of a run."""
    given = {"peft_config": lora(), "teacher_model": None if teacher is None else str(teacher), **(given or {})}
    trainer = build(folder.parent / "writer", student, data, given=given, **{**DISTIL, **changes})
    return cache_teachers(trainer, folder, dtype=dtype, say=lambda line: None)


def make(student_folder, tmp_path):
    """The teacher, and from a batch the logits that it must give at the kept positions."""
    folder = tiny_models.save_tiny_llama(tmp_path / "other", seed=7)
    write_cache(tmp_path / "cache", student_folder, folder)
    return CacheTeacher.load(tmp_path / "cache", SETUP), lambda batch: dense(load(folder), batch)
