# SPDX-License-Identifier: Apache-2.0
"""Distance of teacher and base. `reference` is the formula of its docstring; the contracts compare against it."""

import math

import pytest
import torch

from hf_ckt.token_weights.teacher_divergence import TeacherDivergenceTokenWeights
from hf_ckt.views import LogitsView, TokenViews
from tests.losses.loops import on_shared, softmax


def reference(row: dict[str, list[float]], label: int, position: int, floor: float = 0.1) -> float:
    teacher, base = map(softmax, on_shared(row, "teacher", "reference"))
    return floor + (1 - floor) * 0.5 * math.fsum(abs(p - q) for p, q in zip(teacher, base, strict=True))


def test_agreement_keeps_the_floor_and_contradiction_the_whole_weight():
    """A distance of 2 in place of 1 between certainties would double what the floor is compared with."""
    teacher = torch.tensor([[50.0, -50.0], [50.0, -50.0]])
    base = torch.tensor([[50.0, -50.0], [-50.0, 50.0]])
    views = TokenViews(torch.zeros(2).long(), teacher=LogitsView(teacher), reference=LogitsView(base))
    assert TeacherDivergenceTokenWeights(floor=0.25).per_token(views, None).tolist() == pytest.approx([0.25, 1.0])
