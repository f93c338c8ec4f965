# SPDX-License-Identifier: Apache-2.0
"""How far what a model shows lies from what a probe of its base knows, on the same prompts."""

from collections.abc import Mapping, Sequence

from .compared import Drawn
from .intervals import DRAWS
from .parts import Row, measured
from .pooled import pooled_measure
from .scores import Difference
from .separation import AREAS, PROBE_COLUMN

# Score of a model -> that of the probe, on the same prompts.
BOUND_OF = {
    "refusal_auroc": "probe_auroc",
    "refusal_auroc_jailbreak": "probe_auroc_jailbreak",
    "refusal_auroc_noise": "probe_auroc_noise",
}
_PROBE = ""  # no model is called so


def probe_differences(
    rows: Mapping[str, Sequence[Row]],
    base: str,
    methods: Mapping[str, Sequence[str]] | None = None,
    *,
    draws: int = DRAWS,
) -> dict[str, dict[str, Difference]]:
    """
    Returns how much higher the AUROC of each model's refusal log-odds is than that of the probe: below 0 where the model
    shows less than the probe finds in its base.

    Args:
        rows (`Mapping[str, Sequence[Mapping]]`):
            Completion rows of the base and of the models on it.
        base (`str`):
            Whose rows hold the probe's log-odds, `probe_log_odds`.
        methods (`Mapping[str, Sequence[str]]`, *optional*):
            Methods, each with the models that are its runs: their mean is compared as well.
        draws (`int`, *optional*, defaults to `10000`):
            Behind each interval.

    Returns:
        `dict`: by model or method, and by score: `refusal_auroc`, `refusal_auroc_jailbreak`, `refusal_auroc_noise`, each with
        its paired interval.
    """
    asked = [row | {"log_odds": row[PROBE_COLUMN]} for row in map(dict, rows[base]) if measured(row, PROBE_COLUMN)]
    beside = {_PROBE: asked, **rows}
    found: dict[str, dict[str, Difference]] = {name: {} for name in (*rows, *(methods or {}))}
    for measure in AREAS:
        drawn = Drawn(measure, beside, draws)
        for name in rows:
            _take_in(found[name], drawn.differences(name, _PROBE))
        for method, pooled in pooled_measure(measure, beside, methods, draws=draws).items() if methods else ():
            _take_in(found[method], pooled["against"].get(_PROBE, {}))
    return found


def _take_in(found: dict[str, Difference], differences: Mapping[str, Difference]) -> None:
    found |= {score: one for score, one in differences.items() if score in BOUND_OF}
