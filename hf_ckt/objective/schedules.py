# SPDX-License-Identifier: Apache-2.0
"""How a role's weight moves with training progress."""

import math
from collections.abc import Callable
from dataclasses import dataclass

# name -> share of the way from `start` to `end`, by progress in [0, 1] and warm-up share
_SHAPES: dict[str, Callable[[float, float], float]] = {
    "constant": lambda progress, warmup: 0.0,
    "linear": lambda progress, warmup: progress,
    "cosine": lambda progress, warmup: 0.5 * (1 - math.cos(math.pi * progress)),
    "warmup": lambda progress, warmup: min(progress / warmup, 1.0),
}
SCHEDULES: tuple[str, ...] = tuple(_SHAPES)


@dataclass(frozen=True)
class Schedule:
    """
    A weight as a function of training progress.

    Args:
        weight (`float`):
            The weight that the user set. `constant` stays there; `linear` and `cosine` start there; `warmup` starts
            at 0 and arrives there.
        shape (`str`, *optional*, defaults to `"constant"`):
            `constant`, `linear`, `cosine` or `warmup`.
        end (`float`, *optional*, defaults to `0.0`):
            Weight of `linear` and `cosine` at the end of training.
        warmup (`float`, *optional*, defaults to `0.1`):
            Share of training that `warmup` takes, in (0, 1].

    Example:

    >>> Schedule(1.0, "linear", end=0.5).at(0.5)
    0.75
    >>> Schedule(1.0, "warmup", warmup=0.1).at(0.05)
    0.5
    """

    weight: float
    shape: str = "constant"
    end: float = 0.0
    warmup: float = 0.1

    def at(self, progress: float) -> float:
        """Returns the weight at a progress in [0, 1]."""
        start, end = (0.0, self.weight) if self.shape == "warmup" else (self.weight, self.end)
        share = _SHAPES[self.shape](min(max(progress, 0.0), 1.0), self.warmup)
        return start + (end - start) * share

    @property
    def in_evaluation(self) -> float:
        """The weight at the end of training: an evaluation's at any time, so that two of them can be compared."""
        return self.at(1.0)

    @property
    def ever_on(self) -> bool:
        """Whether the weight is above 0 at some time."""
        return self.weight > 0 or (self.shape in ("linear", "cosine") and self.end > 0)
