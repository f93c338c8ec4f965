# SPDX-License-Identifier: Apache-2.0
"""Intervals of rates and of means over clusters"""

import math
import random

import numpy as np
import pytest
from scipy import stats

from hf_ckt.evaluation.scoring import intervals as module
from hf_ckt.evaluation.scoring.intervals import (
    percentile_interval,
    resampled_means,
    student_t_quantile,
    wilson_interval,
)


@pytest.mark.parametrize(("successes", "count"), [(0, 10), (3, 17), (8, 10), (64, 64), (1, 1)])
def test_wilson_interval_solves_the_score_equation(successes, count):
    """A slip in the closed form would shift every interval that is shown."""
    # The bounds are the rates r at which |successes / count - r| = z sqrt(r (1 - r) / count), or 0 and 1.
    for bound in wilson_interval(successes, count):
        if 0 < bound < 1:
            distance = abs(successes / count - bound)
            assert distance == pytest.approx(1.959963984540054 * math.sqrt(bound * (1 - bound) / count), rel=1e-9)
    theirs = stats.binomtest(successes, count).proportion_ci(method="wilson")
    assert wilson_interval(successes, count) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


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


def cluster_interval(clusters, *, draws=10_000, seed=0):
    """The interval of a mean over values that come in clusters."""
    sums, counts = (np.array([[of(values)] for values in clusters], float) for of in (sum, len))
    return percentile_interval(resampled_means(sums, counts, draws=draws, seed=seed)[:, 0])


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
            low, high = cluster_interval(given, draws=400, seed=seed)
            covered[name] += low <= 0 <= high
    assert covered["clusters"] / 200 > 0.9 and covered["values"] / 200 < 0.7


def test_bootstrap_weighs_every_value_the_same_and_repeats_itself():
    """A mean of the clusters' means would weigh a prompt with one corruption like one with six."""
    low, high = cluster_interval([[1.0] * 9, [0.0]], draws=1000)
    assert (low, high) == (0.0, 1.0)
    given = [[float(n % 3 == 0)] * (n % 4 + 1) for n in range(30)]
    assert cluster_interval(given) == cluster_interval(given)
    mean = sum(map(sum, given)) / sum(map(len, given))
    low, high = cluster_interval(given)
    assert low < mean < high


def test_bootstrap_of_nothing_raises():
    """It would print NaN beside a rate."""
    with pytest.raises(ValueError, match="clusters: must be 1 or more"):
        resampled_means(np.zeros((0, 1)), np.zeros((0, 1)))


def test_bootstrap_interval_is_that_of_scipy():
    """Another quantile, or a resample of another size, would still look like an interval."""
    values = np.random.default_rng(1).exponential(size=50)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    low, high = cluster_interval([[value] for value in values], draws=20_000)
    # Each side's own draws move its bounds by about 0.002.
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.012)


def test_resampled_means_spread_as_theory_says():
    """Clusters drawn over the bounds of their strata would add the spread between sets, which were chosen."""
    generator = np.random.default_rng(0)
    sums = np.concatenate([generator.normal(0, 1, 30), generator.normal(10, 2, 20)])[:, None]
    counts = np.ones_like(sums)
    # The variance of a resampled mean: in each stratum of n clusters n times their variance, over the square of all.
    parts = [sums[:30], sums[30:]]
    within = sum(len(part) * part.var() for part in parts) / len(sums) ** 2
    drawn = resampled_means(sums, counts, ["a"] * 30 + ["b"] * 20, draws=20_000)[:, 0]
    assert drawn.mean() == pytest.approx(sums.mean(), abs=0.01) and drawn.var() == pytest.approx(within, rel=0.05)
    drawn = resampled_means(sums, counts, draws=20_000)[:, 0]
    assert drawn.var() == pytest.approx(sums.var() / len(sums), rel=0.05)


def test_resampled_means_draw_equal_clusters_as_often_as_different_ones():
    """Equal clusters are drawn as one kind; with the weight of one they would count as a single prompt."""
    sums, counts = np.array([[1.0]] * 9 + [[0.0]]), np.ones((10, 1))
    drawn = resampled_means(sums, counts, draws=20_000)[:, 0] * 10
    expected = stats.binom.pmf(range(11), 10, 0.9)
    found = np.bincount(drawn.round().astype(int), minlength=11) / 20_000
    assert found == pytest.approx(expected, abs=0.015)


def test_resampled_means_draw_all_columns_together():
    """Two models on prompts of their own each would have a difference with twice the spread."""
    values = np.random.default_rng(0).normal(size=(40, 1))
    both = np.concatenate([values, values + 1], axis=1)
    drawn = resampled_means(both, np.ones_like(both), draws=500)
    assert drawn[:, 1] - drawn[:, 0] == pytest.approx(np.ones(500), abs=1e-12)


def test_resampled_means_do_not_depend_on_the_order_of_clusters():
    """Files listed in another order would give another interval for the same answers."""
    generator = np.random.default_rng(0)
    sums, counts = generator.normal(size=(25, 3)), generator.integers(1, 4, size=(25, 3)).astype(float)
    strata = [("set", n % 3) for n in range(25)]
    order = generator.permutation(25)
    shuffled = resampled_means(sums[order], counts[order], [strata[n] for n in order], draws=300)
    assert (shuffled == resampled_means(sums, counts, strata, draws=300)).all()
    assert (resampled_means(sums, counts, strata, draws=300, seed=1) != shuffled).any()


def test_resampled_means_are_cut_into_pieces_that_fit_memory(monkeypatch):
    """Ten thousand draws of as many responses at once are 800 MB; pieces that repeat themselves are no draws."""
    values = np.random.default_rng(0).normal(size=(100, 1))
    monkeypatch.setattr(module, "_NUMBERS_AT_A_TIME", 1_000)
    sizes = []
    draw = module.resampled_counts

    def recorded(generator, repeats, draws):
        sizes.append(draws * len(repeats))
        return draw(generator, repeats, draws)

    monkeypatch.setattr(module, "resampled_counts", recorded)
    drawn = resampled_means(values, np.ones_like(values), draws=95)
    assert len(drawn) == 95 == len(np.unique(drawn)) and max(sizes) <= 1_000


def test_resamples_without_a_value_are_left_out():
    """A division by zero in one draw of ten thousand would turn both bounds into NaN."""
    sums, counts = np.array([[1.0], [0.0], [0.0]]), np.array([[1.0], [1.0], [0.0]])
    drawn = resampled_means(sums, counts, draws=2_000)[:, 0]
    assert 0 < np.isnan(drawn).mean() < 0.1  # (1 / 3)^3 of them
    assert percentile_interval(drawn) == (0.0, 1.0)
    assert percentile_interval(np.full(3, np.nan)) == (None, None)


def test_resampled_means_want_a_stratum_for_each_cluster():
    """Cut to the shorter list, the last prompts would never be drawn."""
    with pytest.raises(ValueError, match=r"shorter|longer"):
        resampled_means(np.ones((3, 1)), np.ones((3, 1)), ["a", "b"])
    with pytest.raises(ValueError, match="clusters: must be 1 or more"):
        resampled_means(np.ones((0, 1)), np.ones((0, 1)))
    with pytest.raises(ValueError, match="draws: must be 1 or more"):
        resampled_means(np.ones((3, 1)), np.ones((3, 1)), draws=0)


@pytest.mark.parametrize("freedom", [4, 7, 20, 63, 1000])
def test_student_t_quantile_is_scipys(freedom):
    """Few clusters with the quantile of many are intervals that are too narrow."""
    assert student_t_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), abs=0.01)


def test_intervals_of_few_clusters_are_wider():
    """Resamples of n values spread by sqrt((n - 1) / n) less than their mean does, and know their variance no better."""
    draws = np.random.default_rng(0).normal(size=400_000)
    for clusters in (10, 50):
        low, high = percentile_interval(draws, clusters)
        expected = stats.t.ppf(0.975, clusters - 1) * (clusters / (clusters - 1)) ** 0.5
        assert (low, high) == pytest.approx((-expected, expected), abs=0.02)
    assert percentile_interval(draws) == pytest.approx((-1.96, 1.96), abs=0.02)
