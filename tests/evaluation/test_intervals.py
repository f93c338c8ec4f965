# SPDX-License-Identifier: Apache-2.0
"""Intervals of rates."""

import math
import random

import pytest

from hf_ckt.evaluation.intervals import wilson_interval


@pytest.mark.parametrize(("successes", "count"), [(0, 10), (3, 17), (8, 10), (64, 64), (1, 1)])
def test_wilson_interval_solves_the_score_equation(successes, count):
    """A slip in the closed form would shift every interval that is shown."""
    # The bounds are the rates r at which |successes / count - r| = z sqrt(r (1 - r) / count), or 0 and 1.
    for bound in wilson_interval(successes, count):
        if 0 < bound < 1:
            distance = abs(successes / count - bound)
            assert distance == pytest.approx(1.959963984540054 * math.sqrt(bound * (1 - bound) / count), rel=1e-9)


def test_wilson_interval_covers_the_rate_it_claims():
    """An interval called 95 % that covers 80 % makes noise look like a result."""
    rng = random.Random(0)
    covered = 0
    for _ in range(2000):
        successes = sum(rng.random() < 0.2 for _ in range(60))
        low, high = wilson_interval(successes, 60)
        covered += low <= 0.2 <= high
    assert 0.935 <= covered / 2000 <= 0.975


def test_wilson_interval_of_nothing_raises():
    """A rate over no prompts would print as a number."""
    with pytest.raises(ValueError, match="count"):
        wilson_interval(0, 0)
    with pytest.raises(ValueError, match="successes"):
        wilson_interval(3, 2)
