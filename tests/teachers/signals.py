# SPDX-License-Identifier: Apache-2.0
"""Reads what a teacher gives, and what a whole model would give at the same positions."""

import torch

from hf_ckt.kernels.signals import MappedSignal, MixedSignal, TeacherSignal, signal_parts
from hf_ckt.models.batch import Batch
from hf_ckt.teachers.base import Teacher, TeacherSetup
from hf_ckt.training.teachers import build_teacher
from tests.runs import OFF
from tests.trainers import build, first_batch, lora

DISTIL = {**OFF, "distillation_weight": 1.0}


def batch_of(trainer):
    inputs = dict(first_batch(trainer))
    return Batch(inputs, inputs.pop("labels"))


def logits_of(signal):
    """
    Logits that an exact signal stands for, in the teacher's vocabulary, those of its parts each at their positions; of a
    mixture its log-probabilities.
    """
    if isinstance(signal, MixedSignal):
        both = [(logits_of(one).softmax(-1), weight) for one, weight in signal.weighted()]
        return sum(weight[:, None] * probabilities for probabilities, weight in both).log()
    if isinstance(signal, (TeacherSignal, MappedSignal)):
        hidden, head = signal[:2]
        return torch.nn.functional.linear(hidden, head.weight, head.bias)
    parts = [part for part in signal_parts(signal, 0) if len(part.positions)]
    order = torch.cat([part.positions for part in parts]).argsort()
    return torch.cat([logits_of(part.signal) for part in parts])[order]


def dense(model, batch):
    """Logits of a whole model at the kept positions."""
    model.eval()
    with torch.no_grad():
        return batch.keep(model(**batch.inputs).logits)


def teacher_on(trainer, given):
    """A teacher, built on a trainer's student where it is not built yet."""
    if isinstance(given, Teacher):
        return given
    return build_teacher(
        given, TeacherSetup(trainer._tokenizer, trainer.model, trainer._causal_lm, trainer.accelerator)
    )


def from_cache(folder, student, data, cache, **changes):
    """A trainer whose student learns from a cache."""
    return build(folder, student, data, given={"peft_config": lora()}, teacher_cache=str(cache), **changes)
