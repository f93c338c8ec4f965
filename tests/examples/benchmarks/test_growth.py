# SPDX-License-Identifier: Apache-2.0
"""Exponents of growth, on data whose exponent is known."""

import pytest

import growth
from cases import GROWTH_VARIANTS, ObjectiveCase
from growth import fitted_exponent, measure_growth


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.0])
def test_exponent_is_that_of_a_power_law(exponent):
    """A fit on values instead of logarithms would be ruled by the largest size."""
    sizes = [3, 6, 12, 24, 48]
    assert fitted_exponent(sizes, [7 * size**exponent for size in sizes]) == pytest.approx(exponent, abs=1e-9)


def test_exponent_is_the_least_squares_slope_on_logarithms():
    """Any line through two of the points also recovers a clean power law."""
    # log2 of sizes 0, 1, 2 and of values 0, 0, 3: the slope is ((-1)(-1) + 0 + (1)(2)) / 2.
    assert fitted_exponent([1, 2, 4], [1, 1, 8]) == pytest.approx(1.5)


@pytest.mark.parametrize(("sizes", "values"), [([4], [1.0]), ([4, 4], [1.0, 2.0]), ([1, 2], [0.0, 1.0])])
def test_exponent_of_too_little_is_none(sizes, values):
    """A division by zero would end a long run at its last line."""
    assert fitted_exponent(sizes, values) is None


def test_growth_varies_one_size_at_a_time(monkeypatch):
    """An exponent in N that was fitted while V moved along means nothing."""
    seen = []

    def measure(case, repeats):
        seen.append((case.tokens, case.hidden, case.vocab))
        product = case.tokens * case.hidden**2
        return {name: {"seconds": product, "peak_extra_bytes": case.vocab} for name in GROWTH_VARIANTS}

    monkeypatch.setattr(growth, "_measure", measure)
    found = measure_growth(ObjectiveCase(10, 20, 30), factors=(0.5, 1, 2), repeats=1)
    assert seen == [
        *[(tokens, 20, 30) for tokens in (5, 10, 20)],
        *[(10, hidden, 30) for hidden in (10, 20, 40)],
        *[(10, 20, vocab) for vocab in (15, 30, 60)],
    ]
    exponents = {axis: found[axis]["dense"]["exponents"] for axis in found}
    assert [exponents[axis]["seconds"] for axis in ("tokens", "hidden", "vocab")] == pytest.approx([1, 2, 0])
    assert [exponents[axis]["peak_extra_bytes"] for axis in ("tokens", "hidden", "vocab")] == pytest.approx([0, 0, 1])
    assert found["vocab"]["sizes"] == [15, 30, 60]
