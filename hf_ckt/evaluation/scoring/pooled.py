# SPDX-License-Identifier: Apache-2.0
"""
Several training runs of one method as one: how good is the method, and not this adapter of it.

    value = mean of the runs' scores
    draws = draws over prompts of the runs together + t(runs - 1) * sqrt(variance of seeds / runs)
    variance of seeds = max(0, variance of the runs' scores - what they differ by on other prompts)

Prompts and runs are two levels: another choice of prompts moves all runs alike, another seed of training moves one of
them. The runs' answers to one prompt are one cluster. Runs without any effect of their seed would differ too, since each
answers every prompt in its own way; that part is in the draws over prompts already. With three runs the quantile of t is
4.3 and not 1.96: so little is known of other seeds.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

from ...checks import require_count, require_known
from .alignment import alignment_measures
from .compared import MEASURES, Drawn
from .intervals import DRAWS
from .parts import Measure, Row, run_of
from .scores import SCORES, Difference, Score, drawn_difference, drawn_score

if TYPE_CHECKING:
    import numpy as np


class Pooled(TypedDict):
    """
    A method's scores over its runs.

    Args:
        runs (`list[str]`):
            The models that are its runs.
        scores (`dict[str, Score]`):
            Mean over the runs, with the interval of what another set of prompts and other seeds would give.
        against (`dict[str, dict[str, Difference]]`):
            To every model that is no method's run, and to the methods listed before it.
    """

    runs: list[str]
    scores: dict[str, Score]
    against: dict[str, dict[str, Difference]]


def pooled_scores(
    rows: Mapping[str, Sequence[Row]],
    methods: Mapping[str, Sequence[str]],
    *,
    records: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    named: bool = True,
    draws: int = DRAWS,
) -> dict[str, Pooled]:
    """
    Pools the runs of methods.

    Args:
        rows (`Mapping[str, Sequence[Mapping]]`):
            Completion rows of all models, as for [`~evaluation.scoring.compared.score_models`].
        methods (`Mapping[str, Sequence[str]]`):
            By method, the models that are its runs: at least two, alike but for the seed of their training.
        records, named (*optional*):
            Of agreement with the teacher, as for [`~evaluation.scoring.alignment.alignment_scores`].
        draws (`int`, *optional*, defaults to `10000`):
            Behind each interval.

    Raises:
        ValueError: If a method has fewer than two runs, one that is no model or also another's, or a model's name.
    """
    require_methods(rows, methods)
    found: dict[str, Pooled] = {
        method: {"runs": [*runs], "scores": {}, "against": {}} for method, runs in methods.items()
    }
    kinds: list[tuple[tuple[Measure, ...], Mapping[str, Sequence[Row]]]] = [(MEASURES, rows)]
    if records:
        kinds.append((alignment_measures(named), records))
    for measures, given in kinds:
        for measure in measures:
            for method, one in pooled_measure(measure, given, methods, draws=draws).items():
                found[method]["scores"] |= one["scores"]
                for other, differences in one["against"].items():
                    found[method]["against"].setdefault(other, {}).update(differences)
    return found


def pooled_measure(
    measure: Measure, rows: Mapping[str, Sequence[Row]], methods: Mapping[str, Sequence[str]], *, draws: int = DRAWS
) -> dict[str, Pooled]:
    """Returns the same as [`pooled_scores`] of one measure alone, for methods that have scores of it."""
    drawn = Drawn(measure, _entries(rows, methods), draws)
    known = {name: _spread(drawn, name, methods) for name in drawn.parts}
    found: dict[str, Pooled] = {}
    for method in filter(known.__contains__, methods):
        values, spread = known[method]
        found[method] = {"runs": [*methods[method]], "scores": {}, "against": {}}
        for score, value in values.items():
            n = drawn.parts[method].people[score]
            found[method]["scores"][score] = drawn_score(score, value, spread[score], n, drawn.kind)
        for other in drawn.parts:
            if other == method:
                break
            differences = _differences(drawn, known, method, other, methods)
            if differences:
                found[method]["against"][other] = differences
    return found


def require_methods(names: Collection[str], methods: Mapping[str, Sequence[str]]) -> None:
    """Raises ValueError if a method has fewer than two runs, one that is no model or also another's, or a model's name."""
    seen: dict[str, str] = {}
    for method, runs in methods.items():
        require_count(f"runs of {method}", len({*runs}), 2, "Of one run nothing is known of other seeds.")
        for run in runs:
            require_known(f"runs of {method}", run, list(names))
            if run in seen:
                raise ValueError(
                    f"runs of {method}: {run!r} is also one of {seen[run]!r}, and would be compared with itself. Give each "
                    "run to one method."
                )
            seen[run] = method
        if method in names and method not in runs:
            raise ValueError(
                f"methods: {method!r} is also the name of a model that is none of its runs, so a difference to it could be "
                "to either. Give the method another name."
            )


def _entries(rows: Mapping[str, Sequence[Row]], methods: Mapping[str, Sequence[str]]) -> dict[str, list[Row]]:
    """Rows of the models that are no run, then of each method, those of its runs together."""
    pooled = {run for runs in methods.values() for run in runs}
    entries = {name: [*mine] for name, mine in rows.items() if name not in pooled}
    for method, runs in methods.items():
        entries[method] = [{**row, "run": run} for run in runs for row in rows.get(run, ())]
    return entries


def _spread(
    drawn: Drawn, name: str, methods: Mapping[str, Sequence[str]]
) -> "tuple[dict[str, float], dict[str, np.ndarray]]":
    """Scores and draws of an entry; of a method's, with what other runs would add, and none where a run has none."""
    import numpy as np

    values, draws = drawn.values(name), drawn.draws(name)
    if name not in methods:
        return values, draws
    runs: dict[str, list[Row]] = {}
    for row in drawn.rows[name]:
        runs.setdefault(run_of(row), []).append(row)
    joint = Drawn(drawn.measure, dict(sorted(runs.items())), drawn.number)
    if joint.parts.keys() != {*methods[name]}:  # one run lacks what the others have
        return {}, {}
    each = [(joint.values(run), joint.draws(run)) for run in joint.parts]
    chance = np.random.default_rng([len(runs), *name.encode()]).standard_t(len(runs) - 1, drawn.number)
    means: dict[str, float] = {}
    spread: dict[str, np.ndarray] = {}
    for score in [one for one in values if all(one in own for own, _ in each)]:
        found = np.array([own[score] for own, _ in each])
        if np.isnan(found).any():  # undefined of a run, and so of the method
            means[score], spread[score] = float("nan"), np.full(drawn.number, np.nan)
            continue
        by_prompts = np.nanmean(np.var([drawn[score] - own[score] for own, drawn in each], axis=0, ddof=1))
        of_seeds = max(0.0, float(found.var(ddof=1) - by_prompts))
        means[score] = float(found.mean())
        moved = draws[score] + (means[score] - values[score]) + chance * (of_seeds / len(runs)) ** 0.5
        spread[score] = moved.clip(*SCORES[score][:2])
    return means, spread


def _differences(
    drawn: Drawn, known: Mapping[str, Any], name: str, other: str, methods: Mapping[str, Sequence[str]]
) -> dict[str, Difference]:
    pair = drawn.pair(name, other)
    if name not in pair.parts or other not in pair.parts:
        return {}
    both = [known[one] if pair is drawn else _spread(pair, one, methods) for one in (name, other)]
    (values, draws), (others, other_draws) = both
    found: dict[str, Difference] = {}
    for score in [one for one in values if one in others]:
        n = pair.parts[name].people[score]
        moved = draws[score] - other_draws[score]
        difference = drawn_difference(score, values[score] - others[score], moved, n, drawn.kind)
        if difference is not None:
            found[score] = difference
    return found
