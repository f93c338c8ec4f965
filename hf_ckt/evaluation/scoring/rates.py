# SPDX-License-Identifier: Apache-2.0
"""
Rates whose answers come in clusters, what they have in common, and the interval of any function of them.

    p_k = mean of quantity k over its answers
    V   = V(prompts) + V(ways) - V(answers)         covariances of the p_k from sums of residuals within clusters
    deff_k = n_k V_kk / (p_k (1 - p_k)),  n_eff_k = n_k / deff_k
    draw of p_k = Wilson bound of p_k and n_eff_k at a Student-t quantile

Answers to one prompt rise and fall together, and so do the answers under one jailbreak template (the second way in which
they are grouped). Multiway clustering: Cameron, Gelbach and Miller 2011, https://doi.org/10.1198/jbes.2010.07136; the
design effect inside an interval for rates: Korn and Graubard 1998,
https://www150.statcan.gc.ca/n1/en/catalogue/12-001-X19980024356; Wilson 1927,
https://doi.org/10.1080/01621459.1927.10502953. Where few answers differ from the others, the design effect that they
show says little, and it is drawn towards a usual one: our own choice, checked by simulation.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING

from ...checks import require_count
from .answers import Answers, Separation, area_answers, area_variance
from .intervals import DRAWS

if TYPE_CHECKING:
    import numpy as np

# What is taken for granted of the correlation of answers to one prompt, and of answers of one way, until data say more.
_USUAL_CORRELATIONS = (0.3, 0.1)
# So many answers of the rarer kind in each cluster weigh as much as what is taken for granted.
_PRIOR_WEIGHT = 2.0
# Of two rates that agree in every answer, so many answers may differ next time (as Agresti and Min 2005,
# https://doi.org/10.1002/sim.1781, add half an answer to each cell of a paired table).
_UNSEEN_DISAGREEMENT = 1.0


class Rates:
    """
    Rates of several quantities on prompts that they may share.

    Args:
        answers (`Mapping[Hashable, Answers | Separation]`):
            By quantity; those of the same prompts are taken to depend on each other. Names that are tuples, as (model,
            quantity), share their number of degrees of freedom's chance by the last part.

    Raises:
        ValueError: If a quantity has no answer.

    Example:

    >>> rates = Rates({"refused": Answers([1, 1, 0, 1], ["a", "b", "c", "d"])})
    >>> rates.values["refused"], [round(float(bound), 1) for bound in rates.interval(rates.draws()["refused"])]
    (0.75, [0.3, 1.0])
    """

    def __init__(self, answers: Mapping[Hashable, Answers | Separation]):
        import numpy as np

        self.names = list(answers)
        parts = [_as_answers(str(name), one) for name, one in answers.items()]
        self._sides = [
            tuple(len(set(side.prompts)) for side in one[:2]) if isinstance(one, Separation) else None
            for one in answers.values()
        ]
        self.means = np.array([np.mean(np.asarray(one.values, float)) for one in parts])
        self.values = dict(zip(self.names, self.means.tolist(), strict=True))
        self.answers = np.array([len(one.values) for one in parts])
        residuals = [
            (np.asarray(one.values, float) - mean) / len(one.values)
            for one, mean in zip(parts, self.means, strict=True)
        ]
        covariance, self.prompts = _covariance(residuals, [one.prompts for one in parts])
        by_prompt = np.diag(covariance).copy()
        self._crossed = [one.ways is not None and len(set(one.ways)) > 1 for one in parts]
        crossed = [number for number, one in enumerate(self._crossed) if one]
        self.ways, by_way = self.answers.copy(), np.zeros(len(parts))
        if crossed:
            own = [residuals[number] for number in crossed]
            ways = [list(parts[number].ways or ()) for number in crossed]
            pairs = [
                list(zip(parts[number].prompts, way, strict=True)) for number, way in zip(crossed, ways, strict=True)
            ]
            ways_covariance, self.ways[crossed] = _covariance(own, ways)
            covariance[np.ix_(crossed, crossed)] += ways_covariance - _covariance(own, pairs)[0]
            by_way[crossed] = np.diag(ways_covariance)
        # The way and the answer may overtake each other by chance; a variance is no less than that of either grouping.
        self.variances = np.maximum(np.diag(covariance), np.maximum(by_prompt, by_way))
        effective = [self._effective(k, by_prompt[k], by_way[k]) for k in range(len(parts))]
        self.sizes, self.freedom = (np.array(one) for one in zip(*effective, strict=True))
        seen = self.sizes * self.means * (1 - self.means)
        self.correlations = _correlations(covariance, self.variances, seen / (seen + _UNSEEN_DISAGREEMENT))

    def _effective(self, k: int, by_prompt: float, by_way: float) -> tuple[float, float]:
        """Number of independent answers that would say as much, and degrees of freedom, of a quantity."""
        import numpy as np

        count, rate, crossed = int(self.answers[k]), float(self.means[k]), self._crossed[k]
        groups = [int(self.prompts[k]), *([int(self.ways[k])] if crossed else [])]
        shown = [by_prompt, *([by_way] if crossed else [])]
        spread, sides = rate * (1 - rate), self._sides[k]
        if sides is not None:
            if spread <= 0:
                return float(min(sides)), np.inf
            # Several answers of a prompt say more than one of them, by how little they are taken to be alike.
            alike, own_ways = _USUAL_CORRELATIONS
            repeated = alike + (1 - alike) * groups[0] / count
            least = area_variance(rate, *sides) * repeated
            freedom = np.inf
            if crossed:
                least += own_ways * area_variance(rate, groups[1], groups[1])
                freedom = _satterthwaite(shown, groups)
            return spread / max(float(self.variances[k]), least), freedom
        if groups == [count]:
            return float(count), np.inf
        usual = [
            correlation * (count / number - 1)
            for correlation, number in zip(_USUAL_CORRELATIONS, groups, strict=False)
        ]
        rarer = count * min(rate, 1 - rate)
        weight = rarer / (rarer + _PRIOR_WEIGHT * count / sum(groups))
        found = count * float(self.variances[k]) / spread if spread > 0 else 0.0
        effect = max(1.0, weight * found + (1 - weight) * (1 + sum(usual)))
        shares = [
            weight * (own / spread if spread > 0 else 0.0) + (1 - weight) * correlation / number
            for own, correlation, number in zip(shown, _USUAL_CORRELATIONS, groups, strict=False)
        ]
        return count / effect, _satterthwaite(shares, groups)

    def draws(self, draws: int = DRAWS, seed: int = 0) -> "dict[Hashable, np.ndarray]":
        """
        Returns values of each rate that the data do not speak against, as often as they do not: `(draws,)` each.

        The middle 95 % of one rate are its Wilson interval. Quantities move together as their answers do, so a function
        of several is one of their columns. A quantity's draws are the same whatever is listed after it.
        """
        import numpy as np

        require_count("draws", draws, 1, "Of no draw there is no interval.")
        root = np.linalg.cholesky(self.correlations + 1e-9 * np.eye(len(self.names)))
        columns = [np.random.default_rng([seed, k]).standard_normal(draws) for k in range(len(self.names))]
        normal = np.stack(columns, 1) @ root.T
        families: dict[Hashable, int] = {}
        found = {}
        for k, name in enumerate(self.names):
            z, freedom = normal[:, k], self.freedom[k]
            if np.isfinite(freedom):
                # What one variance is misjudged by, that of the same quantity of another model mostly is as well.
                family = families.setdefault(name[-1] if isinstance(name, tuple) else name, len(families))
                # A seed's trailing zeros do not count: [seed, 1, 0] would be the column of the second quantity.
                chance = np.random.default_rng([seed, 1, 1 + family]).standard_normal(draws)
                z = z / np.sqrt(_chi_square_share(chance, float(freedom)))
            found[name] = _wilson_bound(float(self.means[k]), float(self.sizes[k]), z)
        return found

    @staticmethod
    def interval(draws: "np.ndarray") -> tuple[float, float]:
        """Returns the middle 95 % of draws."""
        import numpy as np

        low, high = np.percentile(draws, [2.5, 97.5])
        return float(low), float(high)


def _as_answers(name: str, one: Answers | Separation) -> Answers:
    if isinstance(one, Separation):
        return area_answers(name, one)
    require_count(name, len(one.values), 1, "A rate of nothing has no interval.")
    return one


def _satterthwaite(variances: Sequence[float], groups: Sequence[int]) -> float:
    """Degrees of freedom of a sum of variances, each estimated from a number of groups (Satterthwaite 1946)."""
    parts = sum(own**2 / max(number - 1, 1) for own, number in zip(variances, groups, strict=True))
    return sum(variances) ** 2 / parts if parts > 0 else float("inf")


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


def _correlations(covariance: "np.ndarray", variances: "np.ndarray", certain: "np.ndarray") -> "np.ndarray":
    """The nearest correlations that can occur together; 0 where a quantity never varied."""
    import numpy as np

    scale = np.sqrt(np.where(variances > 0, variances, 1.0))
    found = np.clip(covariance / np.outer(scale, scale), -1, 1)
    np.fill_diagonal(found, 1.0)
    values, vectors = np.linalg.eigh(found)
    found = (vectors * values.clip(0)) @ vectors.T
    size = np.sqrt(np.diag(found)).clip(1e-12)
    found = found / np.outer(size, size) * np.sqrt(np.outer(certain, certain))
    np.fill_diagonal(found, 1.0)
    return found


def _chi_square_share(normal: "np.ndarray", freedom: float) -> "np.ndarray":
    """Chi-square over its degrees of freedom, from normal draws (Wilson and Hilferty 1931)."""
    import numpy as np

    part = 2 / (9 * freedom)
    return np.maximum(1 - part + normal * np.sqrt(part), 0.05) ** 3


def _wilson_bound(rate: float, size: float, z: "np.ndarray") -> "np.ndarray":
    import numpy as np

    squared = z**2
    centre = rate + squared / (2 * size)
    half = z * np.sqrt(rate * (1 - rate) / size + squared / (4 * size**2))
    return ((centre + half) / (1 + squared / size)).clip(0, 1)
