# SPDX-License-Identifier: Apache-2.0
"""Weight schedules at points computed by hand."""

import pytest

from hf_ckt.objective.schedules import SCHEDULES, Schedule

POINTS = {
    "constant": [(0.0, 2.0), (0.3, 2.0), (1.0, 2.0)],
    "linear": [(0.0, 2.0), (0.25, 1.625), (0.5, 1.25), (1.0, 0.5)],
    # half a cosine: (1 - cos(pi / 3)) / 2 = 1/4 of the way at a third of the training
    "cosine": [(0.0, 2.0), (1 / 3, 1.625), (0.5, 1.25), (2 / 3, 0.875), (1.0, 0.5)],
    "warmup": [(0.0, 0.0), (0.1, 0.5), (0.2, 1.0), (0.4, 2.0), (0.7, 2.0), (1.0, 2.0)],
}


@pytest.mark.parametrize("shape", SCHEDULES)
def test_schedule_passes_through_its_points(shape):
    """A schedule read backwards ends training with the term that it should have started with."""
    assert shape in POINTS, "compute the new shape's points by hand"
    schedule = Schedule(2.0, shape, end=0.5, warmup=0.4)
    for progress, weight in POINTS[shape]:
        assert schedule.at(progress) == pytest.approx(weight, abs=1e-12)


@pytest.mark.parametrize("shape", SCHEDULES)
def test_schedule_stays_at_its_ends_beyond_them(shape):
    """A resumed run may count a step more than planned: the weight must not overshoot, nor turn negative."""
    schedule = Schedule(2.0, shape, end=0.0, warmup=0.4)
    assert schedule.at(1.5) == schedule.at(1.0) >= 0
    assert schedule.at(-0.5) == schedule.at(0.0) >= 0


def test_schedule_can_rise_from_zero():
    """Taken for off because it starts at 0, the term would never be computed."""
    rising = Schedule(0.0, "linear", end=1.0)
    assert rising.ever_on and rising.at(0.5) == 0.5
    assert Schedule(0.0, "cosine", end=1.0).ever_on
    assert not Schedule(0.0, "linear", end=0.0).ever_on


@pytest.mark.parametrize("shape", ["constant", "warmup"])
def test_schedule_without_an_end_ignores_it(shape):
    """`end` belongs to linear and cosine; a warmup to 0 is off whatever it says."""
    assert not Schedule(0.0, shape, end=1.0).ever_on
    assert max(Schedule(0.0, shape, end=1.0).at(p / 10) for p in range(11)) == 0
