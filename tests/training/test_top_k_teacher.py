# SPDX-License-Identifier: Apache-2.0
"""A run whose teacher names its most probable tokens only."""

import pytest
import torch
from datasets import Dataset

from hf_ckt.kernels.signals import TopKSignal
from hf_ckt.teachers.base import Teacher
from hf_ckt.teachers.self import SelfTeacher
from tests.runs import OFF, rows
from tests.trainers import build, gradients, lora, run, steps

K = 6


class NamingTeacher(Teacher):
    """Another teacher's distribution, cut down to its most probable tokens."""

    lossy = True
    name = "naming"

    def __init__(self, inner: Teacher, k: int = K):
        self.inner, self.k, self.unknown = inner, k, {}

    @classmethod
    def load(cls, source, setup):
        return cls(source)

    def signal(self, batch, student):
        hidden, head = self.inner.signal(batch, student)
        values, ids = head.logits(hidden).log_softmax(-1).topk(self.k)
        return TopKSignal(ids, values)


def trainer(tmp_path, model, teacher=None, **changes):
    fields = {**OFF, "distillation_weight": 1.0, "task_weight": 0.0, **changes}
    return build(
        tmp_path,
        model,
        given={"peft_config": lora(), "teacher_model": teacher or NamingTeacher(SelfTeacher())},
        **fields,
    )


def test_run_on_a_top_k_teacher_nears_it(tmp_path, tiny_model_dir):
    """The whole way: batches, tiles, gradients, logs."""
    done = run(trainer(tmp_path, tiny_model_dir, max_steps=8, learning_rate=3e-3))
    losses = [entry["distillation_loss"] for entry in steps(done)]
    assert losses[-1] < 0.7 * losses[0] and min(losses) > 0
    assert all(0 <= entry["acceptance"] <= 1 for entry in steps(done))


def test_gradient_of_a_top_k_teacher_nears_the_exact_one_as_it_names_more(tmp_path, tiny_model_dir):
    """Read at other positions or of other rows, more names would bring it no nearer."""
    exact = gradients(trainer(tmp_path / "exact", tiny_model_dir, SelfTeacher()))
    distances = []
    for k in (1, 16, 150):
        found = gradients(trainer(tmp_path / str(k), tiny_model_dir, NamingTeacher(SelfTeacher(), k)))
        distances.append(sum((found[name] - exact[name]).square().sum() for name in exact).sqrt().item())
    scale = sum(one.square().sum() for one in exact.values()).sqrt().item()
    assert distances == sorted(distances, reverse=True) and distances[2] < 0.2 * scale < distances[0], (
        distances,
        scale,
    )


@pytest.mark.parametrize("packing", [{}, {"padding_free": True, "max_length": None}])
def test_routed_rows_hear_a_top_k_teacher_beside_an_exact_one(tmp_path, tiny_model_dir, packing):
    """A lossy teacher beside an exact one is cut out of a batch by row; a batch without its rows has no part of it."""
    data = Dataset.from_list([{**row, "teacher": ["named", "base"][i // 4]} for i, row in enumerate(rows())])
    given = {"peft_config": lora(), "teachers": {"named": NamingTeacher(SelfTeacher()), "base": None}}
    fields = {**OFF, "distillation_weight": 1.0, "max_steps": 2, **packing}
    first, second = steps(run(build(tmp_path, tiny_model_dir, data, given=given, **fields)))
    assert "distillation_loss/named" in first and "distillation_loss/base" in second
    assert torch.isfinite(torch.tensor([first["loss"], second["loss"]])).all()


def test_contrast_with_a_top_k_teacher_is_refused(tmp_path, tiny_model_dir):
    """Contrast is made of hidden states, and there are none."""
    with pytest.raises(
        ValueError, match=r"^contrastive_weight: the teacher \(naming\) gives its most probable tokens"
    ):
        trainer(tmp_path, tiny_model_dir, contrastive_weight=0.1)


@pytest.mark.parametrize(
    "fields",
    [
        {"distillation_temperature": 2.0},
        {"consistency_weight": 0.5, "consistency_target": "teacher", "consistency_temperature": 2.0},
    ],
)
def test_temperature_with_a_top_k_teacher_is_refused(tmp_path, tiny_model_dir, fields):
    """Found before training, and not in the first step."""
    role = "distillation" if "distillation_temperature" in fields else "consistency"
    with pytest.raises(ValueError, match=rf"^{role}_temperature=2: the teacher \(naming\)"):
        trainer(tmp_path, tiny_model_dir, **fields)


def test_temperature_of_a_term_that_reads_no_teacher_is_not_refused(tmp_path, tiny_model_dir):
    """Consistency between two readings of the student has nothing to do with the teacher."""
    trainer(tmp_path, tiny_model_dir, consistency_weight=0.5, consistency_temperature=2.0)


def test_label_trust_and_robust_consistency_read_a_top_k_teacher(tmp_path, tiny_model_dir):
    """They read it by other ways than distillation does."""
    fields = {"task_weight": 1.0, "label_trust": True, "consistency_weight": 0.5, "consistency_target": "teacher"}
    logged = steps(run(trainer(tmp_path, tiny_model_dir, **fields)))
    assert all(entry["task_loss"] > 0 and entry["consistency_loss"] > 0 for entry in logged)
