# SPDX-License-Identifier: Apache-2.0
"""How time and memory of the objective grow with tokens, hidden width and vocabulary."""

import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tqdm import tqdm

from cases import GROWTH_VARIANTS, ObjectiveCase
from harness import interleaved_seconds, summary
from memory import peak_extra_bytes
from objective_variants import MAKERS, objective_inputs, relative_errors, require_agreement
from tables import AXIS_NAMES

AXES = tuple(AXIS_NAMES)


def fitted_exponent(sizes: Sequence[float], values: Sequence[float]) -> float | None:
    """
    Returns the exponent k of values ~ sizes^k, by least squares on the logarithms.

    None where it is not defined: fewer than two different sizes, or a value that is not positive.

    Example:

    >>> round(fitted_exponent([1, 2, 4], [3.0, 12.0, 48.0]), 6)
    2.0
    """
    if len(set(sizes)) < 2 or min(*sizes, *values) <= 0:
        return None
    x, y = [math.log(size) for size in sizes], [math.log(value) for value in values]
    x_mean, y_mean = sum(x) / len(x), sum(y) / len(y)
    covariance = sum((a - x_mean) * (b - y_mean) for a, b in zip(x, y, strict=True))
    return covariance / sum((a - x_mean) ** 2 for a in x)


def measure_growth(case: ObjectiveCase, factors: Sequence[float], repeats: int) -> dict[str, Any]:
    """
    Returns, for each of N, D and V times each factor and the other two as in `case`, time and memory of hf_ckt and of
    dense, with the exponents: `<axis>.sizes`, `<axis>.<variant>.seconds`, `.peak_extra_bytes`, `.exponents`.
    """
    growth: dict[str, Any] = {}
    with tqdm(total=len(AXES) * len(factors), unit="size", file=sys.stderr) as progress:
        for axis in AXES:
            sizes = [max(2, round(getattr(case, axis) * factor)) for factor in factors]
            points = []
            for size in sizes:
                progress.set_description(f"{axis} {size:,}")
                points.append(_measure(replace(case, **{axis: size}), repeats))  # type: ignore[arg-type]
                progress.update()
            growth[axis] = {"sizes": sizes}
            for variant in GROWTH_VARIANTS:
                series: dict[str, Any] = {
                    quantity: [point[variant][quantity] for point in points]
                    for quantity in ("seconds", "peak_extra_bytes")
                }
                series["exponents"] = {name: fitted_exponent(sizes, values) for name, values in series.items()}
                growth[axis][variant] = series
    return growth


def _measure(case: ObjectiveCase, repeats: int) -> dict[str, dict[str, float]]:
    inputs = objective_inputs(case)
    calls = {name: MAKERS[name](inputs) for name in GROWTH_VARIANTS}
    results: dict[str, Any] = {name: call() for name, call in calls.items()}
    errors = {name: relative_errors(result, results["dense"]) for name, result in results.items()}
    del results
    require_agreement(errors, case.dtype)
    memory = {name: peak_extra_bytes(call, case.device) for name, call in calls.items()}
    seconds = interleaved_seconds(calls, repeats, case.device)
    return {
        name: {"seconds": summary(seconds[name])["median"], "peak_extra_bytes": memory[name]}
        for name in GROWTH_VARIANTS
    }
