# SPDX-License-Identifier: Apache-2.0
"""
Rates whose answers come in clusters, what they have in common, and the interval of any function of them.

    p_k = mean of quantity k over its answers
    V   = V(prompts) + V(ways) - V(answers)         covariances of the p_k from sums of residuals within clusters
    deff_k = n_k V_kk / (p_k (1 - p_k)),  n_eff_k = n_k / deff_k
    draw of p_k = Wilson bound of p_k and n_eff_k at a Student-t quantile

Answers to one prompt rise and fall together, and so do the answers under one jailbreak template or of one training run
(the second way in which they are grouped). Multiway clustering: Cameron, Gelbach and Miller 2011,
https://doi.org/10.1198/jbes.2010.07136; the design effect inside an interval for rates: Korn and Graubard 1998,
https://www150.statcan.gc.ca/n1/en/catalogue/12-001-X19980024356; Wilson 1927,
https://doi.org/10.1080/01621459.1927.10502953. Where few answers differ from the others, the design effect that they
show says little, and it is drawn towards a usual one: our own choice, checked by simulation.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ...checks import require_count

if TYPE_CHECKING:
    import numpy as np

DRAWS = 10_000
# What is taken for granted of the correlation of answers to one prompt, and of answers of one way, until data say more.
_USUAL_CORRELATIONS = (0.3, 0.1)
# So many answers of the rarer kind in each cluster weigh as much as what is taken for granted.
_PRIOR_WEIGHT = 2.0


class Answers(NamedTuple):
    """
    The outcomes of one quantity.

    Args:
        values (`Sequence[float]`):
            Of each answer, in [0, 1].
        prompts (`Sequence`):
            What was asked, before any template or noise.
        ways (`Sequence`, *optional*):
            Under which template, or of which training run: a second grouping. None: there is one only.
        strata (`Sequence`, *optional*):
            Sets whose sizes were chosen and not drawn; one by default.
    """

    values: Sequence[float]
    prompts: Sequence[Hashable]
    ways: Sequence[Hashable] | None = None
    strata: Sequence[Hashable] | None = None


class Separation(NamedTuple):
    """
    Values of two kinds of prompts, whose rate is the area under the ROC curve: how often one of the first kind is above
    one of the second, ties counted half (Mann and Whitney 1947, https://doi.org/10.1214/aoms/1177730491).

    Args:
        above, below (`Sequence[float]`):
            Values of the kind that should be higher, and of the other.
        above_prompts, below_prompts (`Sequence`):
            What each value is of.
    """

    above: Sequence[float]
    below: Sequence[float]
    above_prompts: Sequence[Hashable]
    below_prompts: Sequence[Hashable]


class Rates:
    """
    Rates of several quantities on prompts that they may share.

    Args:
        answers (`Mapping[str, Answers | Separation]`):
            By quantity; those of the same prompts are taken to depend on each other.

    Raises:
        ValueError: If a quantity has no answer.

    Example:

    >>> rates = Rates({"refused": Answers([1, 1, 0, 1], ["a", "b", "c", "d"])})
    >>> rates.values["refused"], [round(float(bound), 2) for bound in rates.interval(rates.draws()["refused"])]
    (0.75, [0.3, 0.95])
    """

    def __init__(self, answers: Mapping[str, Answers | Separation]):
        import numpy as np

        self.names = list(answers)
        parts = [_as_answers(name, one) for name, one in answers.items()]
        self._areas = [isinstance(one, Separation) for one in answers.values()]
        self.means = np.array([np.mean(np.asarray(one.values, float)) for one in parts])
        self.values = dict(zip(self.names, self.means.tolist(), strict=True))
        self.answers = np.array([len(one.values) for one in parts])
        residuals = [_influence(one) for one in parts]
        keys = [list(one.prompts) for one in parts]
        ways = [
            list(one.ways) if one.ways is not None else [("row", i) for i in range(len(one.values))] for one in parts
        ]
        by_prompt, self.prompts = _covariance(residuals, keys)
        crossed = [one.ways is not None and len(set(one.ways)) > 1 for one in parts]
        shared = np.outer(crossed, crossed)
        by_way, self.ways = _covariance(residuals, ways)
        by_answer, _ = _covariance(residuals, [list(zip(*pair, strict=True)) for pair in zip(keys, ways, strict=True)])
        covariance = by_prompt + np.where(shared, by_way - by_answer, 0.0)
        # The way and the answer may overtake each other by chance; a variance is no less than that of either grouping.
        least = np.maximum(np.diag(by_prompt), np.where(crossed, np.diag(by_way), 0.0))
        self.variances = np.maximum(np.diag(covariance), least)
        self.correlations = _correlations(covariance, self.variances)
        self.sizes, self.freedom = self._effective(crossed, np.diag(by_prompt), np.diag(by_way), parts)

    def _effective(
        self, crossed: Sequence[bool], by_prompt: "np.ndarray", by_way: "np.ndarray", parts: Sequence[Answers]
    ) -> "tuple[np.ndarray, np.ndarray]":
        """Number of independent answers that would say as much, and degrees of freedom, by quantity."""
        import numpy as np

        sizes, freedom = [], []
        for k, one in enumerate(parts):
            count, rate = int(self.answers[k]), float(self.means[k])
            groups = [int(self.prompts[k]), int(self.ways[k]) if crossed[k] else count]
            if self._areas[k]:
                sides = [sum(value == kind for value in one.strata or ()) for kind in ("above", "below")]
                spread, variance = rate * (1 - rate), max(float(self.variances[k]), _area_variance(rate, *sides))
                sizes.append(spread / variance if spread > 0 else float(min(sides)))
                freedom.append(np.inf)
                continue
            if not crossed[k] and groups[0] == count:
                sizes.append(float(count) if one.strata is None else _at_least(count, rate, self.variances[k]))
                freedom.append(np.inf)
                continue
            per_group = [count / number for number in groups]
            usual = [
                correlation * (size - 1 if index == 0 or crossed[k] else 0)
                for index, (correlation, size) in enumerate(zip(_USUAL_CORRELATIONS, per_group, strict=True))
            ]
            spread = rate * (1 - rate)
            rarer = count * min(rate, 1 - rate)
            weight = rarer / (rarer + _PRIOR_WEIGHT * count / sum(groups[: 1 + crossed[k]]))
            shown = count * float(self.variances[k]) / spread if spread > 0 else 0.0
            effect = max(1.0, weight * shown + (1 - weight) * (1 + sum(usual)))
            sizes.append(count / effect)
            # Satterthwaite's degrees of freedom, of the two groupings' shares.
            own = [by_prompt[k] / spread, by_way[k] / spread if crossed[k] else 0.0] if spread > 0 else [0.0, 0.0]
            shares = [
                weight * shown_part + (1 - weight) * correlation / number
                for shown_part, correlation, number in zip(own, _USUAL_CORRELATIONS, groups, strict=True)
            ][: 1 + crossed[k]]
            parts_of = sum(share**2 / max(number - 1, 1) for share, number in zip(shares, groups, strict=False))
            freedom.append(sum(shares) ** 2 / parts_of if parts_of > 0 else np.inf)
        return np.array(sizes), np.array(freedom)

    def draws(self, draws: int = DRAWS, seed: int = 0) -> "dict[str, np.ndarray]":
        """
        Returns values of each rate that the data do not speak against, as often as they do not: `(draws,)` each.

        The middle 95 % of one rate are its Wilson interval. Quantities move together as their answers do, so a function
        of several is one of their columns.
        """
        import numpy as np

        require_count("draws", draws, 1, "Of no draw there is no interval.")
        generator = np.random.default_rng(seed)
        root = np.linalg.cholesky(self.correlations + 1e-9 * np.eye(len(self.names)))
        normal = generator.standard_normal((draws, len(self.names))) @ root.T
        found = {}
        for k, name in enumerate(self.names):
            z = normal[:, k]
            if np.isfinite(self.freedom[k]):
                z = z * np.sqrt(self.freedom[k] / generator.chisquare(self.freedom[k], draws))
            found[name] = _wilson_bound(float(self.means[k]), float(self.sizes[k]), z)
        return found

    @staticmethod
    def interval(draws: "np.ndarray") -> tuple[float, float]:
        """Returns the middle 95 % of draws."""
        import numpy as np

        low, high = np.percentile(draws, [2.5, 97.5])
        return float(low), float(high)


def _as_answers(name: str, one: Answers | Separation) -> Answers:
    """The answers of a quantity; of an area, values whose mean is the area and whose spread is each prompt's share."""
    import numpy as np

    if isinstance(one, Answers):
        require_count(name, len(one.values), 1, "A rate of nothing has no interval.")
        return one
    require_count(name, min(len(one.above), len(one.below)), 1, "Of one kind alone there is nothing to tell apart.")
    above, below = np.asarray(one.above, float), np.asarray(one.below, float)
    sides = [
        sum(np.searchsorted(np.sort(other), mine, side) for side in ("left", "right")) / 2 / len(other)
        for mine, other in ((above, below), (below, above))
    ]
    sides[1] = 1 - sides[1]
    # A prompt of a rare kind moves the area more: weighed so that the mean over both kinds is the area.
    count = len(above) + len(below)
    area = sides[0].mean()
    values = np.concatenate([area + (side - area) * count / len(side) for side in sides])
    strata = ["above"] * len(above) + ["below"] * len(below)
    return Answers(values.tolist(), [*one.above_prompts, *one.below_prompts], None, strata)


def _area_variance(area: float, above: int, below: int) -> float:
    """
    What the variance of an area is where both kinds are spread exponentially (Hanley and McNeil 1982,
    https://doi.org/10.1148/radiology.143.1.7063747): of an area near 1, the prompts themselves show too little of it.
    """
    area = max(area, 1 - area)
    first, second = area / (2 - area), 2 * area**2 / (1 + area)
    spread = area * (1 - area) + (above - 1) * (first - area**2) + (below - 1) * (second - area**2)
    return spread / (above * below)


def _influence(one: Answers) -> "np.ndarray":
    """What each answer adds to its rate, less the stratum's mean."""
    import numpy as np

    values = np.asarray(one.values, float)
    if one.strata is None:
        return (values - values.mean()) / len(values)
    centred = values.copy()
    names = list(one.strata)
    for stratum in set(names):
        mine = np.array([name == stratum for name in names])
        centred[mine] -= values[mine].mean()
    return centred / len(values)


def _covariance(
    residuals: "Sequence[np.ndarray]", keys: Sequence[Sequence[Hashable]]
) -> "tuple[np.ndarray, np.ndarray]":
    """Covariances of sums of residuals within clusters, `(K, K)`, and each quantity's number of clusters."""
    import numpy as np

    index: dict[Hashable, int] = {}
    places = [np.array([index.setdefault(key, len(index)) for key in mine]) for mine in keys]
    table = np.zeros((len(index), len(residuals)))
    counts = []
    for k, (values, place) in enumerate(zip(residuals, places, strict=True)):
        number = len(np.unique(place))
        # Few clusters show less than their spread.
        np.add.at(table[:, k], place, values * np.sqrt(number / max(number - 1, 1)))
        counts.append(number)
    return table.T @ table, np.array(counts)


def _correlations(covariance: "np.ndarray", variances: "np.ndarray") -> "np.ndarray":
    """The nearest correlations that can occur together; 0 where a quantity never varied."""
    import numpy as np

    scale = np.sqrt(np.where(variances > 0, variances, 1.0))
    found = np.clip(covariance / np.outer(scale, scale), -1, 1)
    np.fill_diagonal(found, 1.0)
    values, vectors = np.linalg.eigh(found)
    found = (vectors * values.clip(0)) @ vectors.T
    size = np.sqrt(np.diag(found)).clip(1e-12)
    return found / np.outer(size, size)


def _at_least(count: int, rate: float, variance: float) -> float:
    """Strata make a rate more certain, never less than their answers alone would."""
    spread = rate * (1 - rate)
    return float(max(count, spread / variance)) if variance > 0 and spread > 0 else float(count)


def _wilson_bound(rate: float, size: float, z: "np.ndarray") -> "np.ndarray":
    import numpy as np

    squared = z**2
    centre = rate + squared / (2 * size)
    half = z * np.sqrt(rate * (1 - rate) / size + squared / (4 * size**2))
    return ((centre + half) / (1 + squared / size)).clip(0, 1)
