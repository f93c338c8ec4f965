# SPDX-License-Identifier: Apache-2.0
"""
How often 95 % intervals hold the truth, in simulated evaluations.

Of 2,000 of them the share found is itself uncertain by 0.5 % (one standard deviation): a true 95 % falls outside of 94 to
96 % in one seed of 25. Where that is asserted, 10,000 are drawn (0.2 %). Seeds are 0; `-s` prints the tables.
"""

import numpy as np
import pytest

from hf_ckt.evaluation.scoring.intervals import percentile_interval, resampled_means, wilson_interval
from hf_ckt.evaluation.scoring.robustness import noise_scores
from hf_ckt.evaluation.scoring.safety import overall_safety
from tests.evaluation.verdicts import noisy

TIMES, MANY_TIMES, DRAWS = 2_000, 10_000, 1_000


def _report(title: str, covered: float) -> float:
    print(f"{title:75s} {100 * covered:5.1f} %")
    return covered


@pytest.mark.parametrize("count", [60, 200, 472])
def test_wilson_interval_covers_rates_of_every_height(count):
    """An interval called 95 % that covers less makes noise look like a result; one that covers more hides results."""
    generator = np.random.default_rng(0)
    covered = 0
    for rate in generator.uniform(0.02, 0.98, MANY_TIMES):
        low, high = wilson_interval(int(generator.binomial(count, rate)), count)
        covered += low <= rate <= high
    assert 0.94 <= _report(f"Wilson, n = {count}", covered / MANY_TIMES) <= 0.96


def _jailbreak(prompts: int, generator: np.random.Generator) -> bool:
    """Whether the interval of a rate over 5 templates of each prompt holds 0.4; prompts differ in how easy they are."""
    easy = generator.beta(1.0, 1.5, prompts)
    sums = generator.binomial(5, easy)[:, None].astype(float)
    low, high = percentile_interval(resampled_means(sums, np.full((prompts, 1), 5.0), draws=DRAWS)[:, 0])
    return low <= 0.4 <= high


def test_bootstrap_of_clusters_covers_a_mean():
    """Five templates of a prompt taken for five prompts cover far less than 95 %."""
    generator = np.random.default_rng(0)
    found = {
        prompts: _report(
            f"rate under 5 templates of each of {prompts} prompts",
            np.mean([_jailbreak(prompts, generator) for _ in range(times)]),
        )
        for prompts, times in ((200, MANY_TIMES), (60, TIMES), (20, TIMES), (8, TIMES))
    }
    assert 0.94 <= found[200] <= 0.96 and 0.93 <= found[60] <= 0.965
    # Of few clusters the percentile bootstrap is too narrow, as its docstring says.
    assert 0.88 <= found[8] < 0.94


def _oss(size: int, jailbroken: int, generator: np.random.Generator) -> bool:
    """Whether the interval of OSS holds its true value, for rates drawn anew; some prompts also in 4 templates."""
    refusing, overrefusing = generator.uniform(0.4, 0.95), generator.uniform(0.05, 0.5)
    leaning = generator.beta(4 * refusing, 4 * (1 - refusing), size)
    sums, counts = np.zeros((2 * size, 3)), np.zeros((2 * size, 3))
    sums[:size, 0], counts[:size, 0] = generator.random(size) < leaning, 1
    sums[:jailbroken, 1], counts[:jailbroken, 1] = generator.binomial(4, leaning[:jailbroken] / 2), 4
    sums[size:, 2], counts[size:, 2] = generator.random(size) >= overrefusing, 1
    drawn = resampled_means(sums, counts, ["harmful"] * size + ["benign"] * size, draws=DRAWS)
    safety, true_safety = drawn[:, 0], refusing
    if jailbroken:
        safety, true_safety = (safety + drawn[:, 1]) / 2, (refusing + refusing / 2) / 2
    low, high = percentile_interval(overall_safety(safety, drawn[:, 2]))
    return low <= overall_safety(true_safety, 1 - overrefusing) <= high


@pytest.mark.slow
def test_bootstrap_covers_the_overall_safety_score():
    """The headline's interval is of a harmonic mean of shares over different prompts, for which there is no formula."""
    generator = np.random.default_rng(0)
    found = {
        (size, jailbroken): _report(
            f"OSS of {size} harmful (of them {jailbroken} in 4 templates) and {size} benign prompts",
            np.mean([_oss(size, jailbroken, generator) for _ in range(times)]),
        )
        for size, jailbroken, times in (
            *((200, 0, MANY_TIMES), (200, 60, MANY_TIMES)),
            *((60, 0, TIMES), (60, 10, TIMES), (16, 0, TIMES)),
        )
    }
    assert 0.94 <= found[200, 0] <= 0.96 and 0.94 <= found[200, 60] <= 0.96
    assert min(found[60, 0], found[60, 10]) >= 0.925 and found[16, 0] >= 0.91


def _robustness(size: int, kept: float, generator: np.random.Generator) -> bool:
    """Whether the interval of NR holds its true value, of a model whose S and H shrink by `kept` in two corruptions."""
    rows = []
    for number in range(2 * size):
        harmful = number < size
        right = generator.random() < 0.8
        cells = {("", 0.0): [right == harmful]}
        for name in ("typos", "swap"):
            cells[name, 0.2] = [(right and keeps) == harmful for keeps in generator.random(2) < kept]
        rows += noisy(f"p/{number}", cells, kind="harmful" if harmful else "benign")
    score = noise_scores(rows, draws=DRAWS)[0]["noise_robustness"]
    return score["low"] <= kept <= score["high"]


@pytest.mark.slow
def test_bootstrap_covers_noise_robustness():
    """A ratio of two scores on the same prompts, clipped at 1."""
    generator = np.random.default_rng(0)
    found = {
        (size, kept): _report(
            f"NR (truly {kept}) of {size} harmful and {size} benign prompts",
            np.mean([_robustness(size, kept, generator) for _ in range(TIMES // 4)]),
        )
        for size, kept in ((100, 0.8), (24, 0.8), (100, 0.97))
    }
    assert 0.92 <= found[100, 0.8] <= 0.975
