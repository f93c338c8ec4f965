# SPDX-License-Identifier: Apache-2.0
"""Decay with the position. `reference` is the formula of its docstring; the contracts compare against it."""

import math

import pytest
import torch

from hf_ckt.token_weights.position_decay import PositionDecayTokenWeights
from hf_ckt.views import TokenViews


def reference(
    row: dict[str, list[float]], label: int, position: int, half_life: float = 5.0, floor: float = 0.1
) -> float:
    return floor + (1 - floor) * math.exp(-math.log(2) * position / half_life)


def test_weight_above_the_floor_halves_with_each_half_life():
    """A decay by e in place of 2, or a floor that decays too, looks the same in a loss."""
    positions = torch.tensor([0, 4, 8, 4000])
    found = PositionDecayTokenWeights(half_life=4.0, floor=0.2).per_token(TokenViews(positions), positions)
    assert found.tolist() == pytest.approx([1.0, 0.6, 0.4, 0.2])
