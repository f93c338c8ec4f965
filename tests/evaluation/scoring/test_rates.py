# SPDX-License-Identifier: Apache-2.0
"""Rates of clustered answers: against textbook intervals, by hand, and by how often they hold the truth."""

import math

import numpy as np
import pytest
from scipy import stats

from hf_ckt.evaluation.scoring.answers import Answers, Separation
from hf_ckt.evaluation.scoring.rates import Rates


def interval(answers, name="x"):
    return Rates.interval(Rates({name: answers}).draws(40_000)[name])


@pytest.mark.parametrize(("successes", "count"), [(0, 10), (3, 10), (10, 10), (59, 60)])
def test_answers_that_stand_alone_have_wilsons_interval(successes, count):
    """An interval of width 0 where all answers are the same says that nothing else can ever happen."""
    theirs = stats.binomtest(successes, count).proportion_ci(method="wilson")
    values = [1.0] * successes + [0.0] * (count - successes)
    assert interval(Answers(values, range(count))) == pytest.approx((theirs.low, theirs.high), abs=0.01)


def test_copies_of_an_answer_say_no_more_than_the_answer():
    """Ten templates around each of six prompts, all with the same outcome, would pass for sixty prompts."""
    once = interval(Answers([1, 1, 0, 1, 0, 1], range(6)))
    values = [value for value in (1, 1, 0, 1, 0, 1) for _ in range(10)]
    low, high = interval(Answers(values, [number for number in range(6) for _ in range(10)]))
    assert high - low > 0.9 * (once[1] - once[0])
    alone = interval(Answers(values, range(60)))
    assert high - low > 1.8 * (alone[1] - alone[0])


def test_the_second_grouping_counts_too():
    """Two templates that always succeed and two that never do are four observations, however many prompts they wrap."""
    ways = [way for _ in range(50) for way in range(4)]
    prompts = [prompt for prompt in range(50) for _ in range(4)]
    values = [float(way < 2) for way in ways]
    wide, narrow = interval(Answers(values, prompts, ways)), interval(Answers(values, prompts))
    assert wide[1] - wide[0] > 0.5 > narrow[1] - narrow[0]


def test_a_paired_difference_is_narrower_than_two_strangers():
    """Of two models on the same prompts, what makes a prompt hard falls out of the difference."""
    rng = np.random.default_rng(0)
    hard = rng.normal(size=80)
    first, second = ((hard + 0.3 * rng.normal(size=80) > 0).astype(float) for _ in range(2))
    paired = Rates({"a": Answers(first, range(80)), "b": Answers(second, range(80))}).draws(20_000)
    strangers = Rates({"a": Answers(first, range(80)), "b": Answers(second, range(80, 160))}).draws(20_000)
    widths = [np.subtract(*Rates.interval(one["a"] - one["b"])[::-1]) for one in (paired, strangers)]
    assert widths[0] < 0.7 * widths[1]


def test_an_area_is_mann_whitneys_and_has_hanley_and_mcneils_width_at_one():
    """Ties, kinds of different number and a perfect separation each break a simpler formula."""
    rates = Rates({"auc": Separation(Answers([3.0, 1.0, 1.0], "abc"), Answers([1.0, 0.0], "de"))})
    pairs = [(a > b) + (a == b) / 2 for a in (3.0, 1.0, 1.0) for b in (1.0, 0.0)]
    assert rates.values["auc"] == pytest.approx(sum(pairs) / len(pairs))
    low, high = Rates.interval(
        Rates({"auc": Separation(Answers(range(20, 40), range(20)), Answers(range(20), range(20, 40)))}).draws()["auc"]
    )
    assert 0.8 < low < 0.95 and high == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(("prompts", "ways", "rate"), [(20, 8, 0.3), (20, 8, 0.05), (60, 14, 0.9)])
def test_intervals_hold_the_truth_as_often_as_they_say(prompts, ways, rate):
    """An interval that is right four times in five is quoted as if it were nineteen in twenty."""
    rng = np.random.default_rng(1)
    threshold = stats.norm.ppf(rate) * math.sqrt(1 + 1 + 0.5)
    groups = ([p for p in range(prompts) for _ in range(ways)], list(range(ways)) * prompts)
    hits = 0
    for _ in range(300):
        latent = (
            rng.normal(size=(prompts, 1))
            + math.sqrt(0.5) * rng.normal(size=(1, ways))
            + rng.normal(size=(prompts, ways))
        )
        low, high = Rates.interval(
            Rates({"x": Answers((latent < threshold).astype(float).ravel(), *groups)}).draws(1000)["x"]
        )
        hits += low <= rate <= high
    # 300 draws of a 95 % interval are 273 or more in 999 of 1,000 cases.
    assert hits >= 273


def test_two_rates_that_agree_in_every_answer_may_differ_in_the_next():
    """A paired difference of [0, 0] of 60 prompts calls two models the same."""
    one = Answers([float(n < 50) for n in range(60)], range(60))
    draws = Rates({("a", "x"): one, ("b", "x"): one}).draws()
    low, high = Rates.interval(draws["a", "x"] - draws["b", "x"])
    # Agresti and Min's interval with half an answer in each cell: 1.96 * sqrt(1) / 62 at the least.
    assert low < -0.03 and high > 0.03 and high - low < 0.12


def test_a_quantitys_draws_do_not_depend_on_what_is_listed_after_it():
    """The base's interval would change with every adapter that is compared with it."""
    one = Answers([1, 0, 1, 1, 0, 1], range(6))
    alone, beside = Rates({"a": one}).draws(50), Rates({"a": one, "b": Answers([1, 0], "xy")}).draws(50)
    assert beside["a"] == pytest.approx(alone["a"], abs=1e-9)


def test_an_area_compares_values_within_their_run():
    """One run's log-odds may all lie above another's, which says nothing about the prompts."""
    above, below = Answers([1.0, 11.0], "ab"), Answers([0.0, 10.0], "cd")
    together = Rates({"x": Separation(above, below)}).values["x"]
    apart = Rates({"x": Separation(above, below, [1, 2], [1, 2])}).values["x"]
    assert (together, apart) == (0.75, 1.0)


def test_rates_of_nothing_raise():
    """A mean over no answer would be NaN in the table."""
    with pytest.raises(ValueError, match="x: must be 1 or more"):
        Rates({"x": Answers([], [])})
    with pytest.raises(ValueError, match="x: must be 1 or more"):
        Rates({"x": Separation(Answers([1.0], ["a"]), Answers([], []))})


@pytest.mark.parametrize("place", [0, 1, 2])
def test_draws_are_as_wide_to_both_sides_wherever_a_quantity_is_listed(place):
    """What misjudges a variance must not come from a quantity's own draws: the second model's interval would lean."""
    ways = [way for _ in range(20) for way in range(8)]
    sides = [[f"{kind}{prompt}" for prompt in range(20) for _ in range(8)] for kind in "hb"]
    own = np.random.default_rng(1).normal(size=(2, 160))
    areas = {}
    for model in range(3):
        # Other prompts of each model, the same area of a half.
        above, below = ([f"{model}{prompt}" for prompt in side] for side in sides)
        named = [f"{model}{way}" for way in ways]
        areas[f"{model}", "auc"] = Separation(
            Answers([*own[0], *own[1]], [*above, *below], [*named, *named]),
            Answers([*own[1], *own[0]], [*below, *above], [*named, *named]),
        )
    drawn = Rates(areas).draws(20_000)[f"{place}", "auc"]
    low, high = Rates.interval(drawn)
    assert 0.5 - low == pytest.approx(high - 0.5, rel=0.1)
