# SPDX-License-Identifier: Apache-2.0
"""Arithmetic of the expected values: float64, one number at a time, without torch and without the package."""

import math
from collections.abc import Mapping, Sequence


def softmax(logits: Sequence[float], temperature: float = 1.0) -> list[float]:
    peak = max(logits)
    weights = [math.exp((logit - peak) / temperature) for logit in logits]
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def on_shared(row: Mapping[str, Sequence[float]], *views: str) -> list[list[float]]:
    """Logits of the named views on the ids that all of these have: a padded head has more."""
    shared = min(len(row[view]) for view in views)
    return [list(row[view][:shared]) for view in views]


def kl(p: Sequence[float], q: Sequence[float]) -> float:
    return math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def mix(p: Sequence[float], q: Sequence[float], share: float) -> list[float]:
    return [share * a + (1 - share) * b for a, b in zip(p, q, strict=True)]
