# SPDX-License-Identifier: Apache-2.0
"""
How often 95 % intervals hold the truth, in 2,000 simulated evaluations each.

With 2,000 of them the share found is itself uncertain by 0.5 % (one standard deviation), so a true 95 % is found between
94 and 96 % in 96 of 100 seeds. Seeds are 0; `-s` prints the tables.
"""

import numpy as np
import pytest

from hf_ckt.evaluation.intervals import percentile_interval, resampled_means, wilson_interval
from hf_ckt.evaluation.robustness import noise_scores
from hf_ckt.evaluation.safety import safety_scores
from tests.evaluation.verdicts import noisy, row

TIMES, DRAWS = 2_000, 1_000


def _report(title: str, covered: float) -> float:
    print(f"{title:60s} {100 * covered:5.1f} %")
    return covered


@pytest.mark.parametrize("count", [60, 200, 472])
def test_wilson_interval_covers_rates_of_every_height(count):
    """An interval called 95 % that covers less makes noise look like a result; one that covers more hides results."""
    generator = np.random.default_rng(0)
    covered = 0
    for rate in generator.uniform(0.02, 0.98, TIMES):
        low, high = wilson_interval(int(generator.binomial(count, rate)), count)
        covered += low <= rate <= high
    assert 0.94 <= _report(f"Wilson, n = {count}", covered / TIMES) <= 0.96


def _jailbreak(prompts: int, generator: np.random.Generator) -> bool:
    """Whether the interval of a rate over 5 templates of each prompt holds 0.4; prompts differ in how easy they are."""
    easy = generator.beta(1.0, 1.5, prompts)
    sums = generator.binomial(5, easy)[:, None].astype(float)
    low, high = percentile_interval(resampled_means(sums, np.full((prompts, 1), 5.0), draws=DRAWS)[:, 0])
    return low <= 0.4 <= high


def test_bootstrap_of_clusters_covers_a_mean():
    """Five templates of a prompt taken for five prompts cover 60 %."""
    generator = np.random.default_rng(0)
    found = {
        prompts: _report(
            f"cluster bootstrap of a rate, {prompts} prompts x 5",
            np.mean([_jailbreak(prompts, generator) for _ in range(TIMES)]),
        )
        for prompts in (200, 60, 20, 8)
    }
    assert 0.94 <= found[200] <= 0.96 and 0.93 <= found[60] <= 0.96
    # Few clusters: the percentile bootstrap is too narrow, and says so in its docstring.
    assert 0.85 <= found[8] < found[200]


def _oss(size: int, jailbroken: int, generator: np.random.Generator) -> bool:
    """Whether the interval of OSS holds its true value, for rates drawn anew."""
    refusing, overrefusing = generator.uniform(0.4, 0.95), generator.uniform(0.05, 0.5)
    leaning = generator.beta(4 * refusing, 4 * (1 - refusing), size)
    rows = [row("direct", f"h/{n}", bool(refused)) for n, refused in enumerate(generator.random(size) < leaning)]
    for n in range(jailbroken):
        rows += [row("jailbreak", f"h/{n}", bool(refused)) for refused in generator.random(4) < leaning[n] / 2]
    rows += [
        row("overrefusal", f"b/{n}", bool(refused)) for n, refused in enumerate(generator.random(size) < overrefusing)
    ]
    safety = (refusing + refusing / 2) / 2 if jailbroken else refusing
    truth = 200 * safety * (1 - overrefusing) / (safety + 1 - overrefusing)
    score = safety_scores(rows, draws=DRAWS)["oss"]
    return score["low"] <= truth <= score["high"]


def test_bootstrap_covers_the_overall_safety_score():
    """The headline's interval is of a harmonic mean of shares over different prompts, for which there is no formula."""
    generator = np.random.default_rng(0)
    found = {
        (size, jailbroken): _report(
            f"OSS, {size} harmful + {size} benign, {jailbroken} x 4 templates",
            np.mean([_oss(size, jailbroken, generator) for _ in range(TIMES)]),
        )
        for size, jailbroken in ((200, 0), (200, 60), (60, 0), (60, 10), (16, 0))
    }
    assert 0.94 <= found[200, 0] <= 0.96 and 0.94 <= found[200, 60] <= 0.96
    assert 0.92 <= found[60, 0] <= 0.97 and 0.88 <= found[16, 0] <= 0.97


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
            f"NR = {kept}, {size} harmful + {size} benign x 2 corruptions x 2 seeds",
            np.mean([_robustness(size, kept, generator) for _ in range(TIMES // 4)]),
        )
        for size, kept in ((100, 0.8), (24, 0.8), (100, 0.97))
    }
    assert 0.92 <= found[100, 0.8] <= 0.975
