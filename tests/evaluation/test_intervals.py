# SPDX-License-Identifier: Apache-2.0
"""Intervals of rates."""

import math
import random

import pytest

from hf_ckt.evaluation.intervals import cluster_bootstrap_interval, wilson_interval


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


def test_bootstrap_of_clusters_covers_what_it_claims_and_one_of_single_values_does_not():
    """Corruptions of one prompt rise and fall together: drawn one by one, the interval is far too narrow."""
    rng = random.Random(0)
    covered = {"clusters": 0, "values": 0}
    for seed in range(200):
        clusters = []
        for _ in range(40):
            shared = rng.gauss(0, 1)
            clusters.append([shared + rng.gauss(0, 0.2) for _ in range(6)])
        singles = [[value] for values in clusters for value in values]
        for name, given in (("clusters", clusters), ("values", singles)):
            low, high = cluster_bootstrap_interval(given, draws=400, seed=seed)
            covered[name] += low <= 0 <= high
    assert covered["clusters"] / 200 > 0.9 and covered["values"] / 200 < 0.7


def test_bootstrap_weighs_every_value_the_same_and_repeats_itself():
    """A mean of the clusters' means would weigh a prompt with one corruption like one with six."""
    low, high = cluster_bootstrap_interval([[1.0] * 9, [0.0]], draws=1000)
    assert (low, high) == (0.0, 1.0)
    given = [[float(n % 3 == 0)] * (n % 4 + 1) for n in range(30)]
    assert cluster_bootstrap_interval(given) == cluster_bootstrap_interval(given)
    mean = sum(map(sum, given)) / sum(map(len, given))
    low, high = cluster_bootstrap_interval(given)
    assert low < mean < high


def test_bootstrap_of_nothing_raises():
    """It would print NaN beside a rate."""
    for given in ([], [[1.0], []]):
        with pytest.raises(ValueError, match="clusters: must be 1 or more"):
            cluster_bootstrap_interval(given)
