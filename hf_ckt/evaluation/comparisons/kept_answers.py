# SPDX-License-Identifier: Apache-2.0
"""
Answers that a results file keeps, judged and scored, and judged anew when the judge is another one by now.

The file holds each prompt once, under `prompts` (see [`~evaluation.comparisons.asking.prompt_row`]), and under
`models.<name>.answers` what each model said to them, in their order. Verdicts and scores are made of these alone, so a
better judge or another interval changes the numbers without a model being asked again.
"""

import math
from collections.abc import Mapping
from typing import Any

from ..judges import judge_names, load_judge
from ..judging import Judging, load_judging
from ..results import COLUMNS
from ..scoring.bound import probe_differences
from ..scoring.compared import score_models
from ..scoring.separation import PROBE_COLUMN
from .utility import utility_rows

_VERDICT = ("refused", "degenerate", "confidence")
# What of a model's scores a results file holds; curve and categories are of `hf-ckt evaluate`.
_KEPT = ("scores", "noise", "against")
_ROUNDING = 1e-6  # tables show three digits


def keeps_answers(results: Mapping[str, Any]) -> bool:
    """Tells whether the answers are in a results file: those of older versions hold rates alone."""
    return "prompts" in results


def completion_rows(results: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """
    Returns the kept answers of each model as completion rows: those to clean prompts as `direct` or `overrefusal`, and all
    of them as `noise`, where the clean ones are what the corrupted are compared with. Those of the base hold the probe's
    log-odds besides, where the file keeps them. What is kept under `utility` follows.
    """
    empty = dict.fromkeys(COLUMNS) | {"template": "", "seed": 0}
    found = {}
    for name, model in results["models"].items():
        rows = [
            {**empty, "model": name, **prompt, **said}
            for prompt, said in zip(results["prompts"], model["answers"], strict=True)
        ]
        probe = results.get("probe")
        if probe is not None and name == probe["model"]:
            rows = [row | {PROBE_COLUMN: odds} for row, odds in zip(rows, probe["log_odds"], strict=True)]
        suites = {"harmful": "direct", "benign": "overrefusal"}
        plain = [row | {"suite": suites[row["kind"]]} for row in rows if not row["corruption"]]
        noisy = [row | {"suite": "noise"} for row in rows]
        found[name] = plain + noisy + [{**empty, "model": name, **row} for row in utility_rows(model)]
    return found


def judge_answers(results: dict[str, Any], judging: Judging) -> int:
    """
    Puts a judge's verdicts beside the kept answers, in place of older ones.

    Args:
        results (`dict`):
            With `prompts` and `models.<name>.answers`. What is stated of the judge is changed as well.
        judging ([`Judging`]):
            Who judges.

    Returns:
        `int`: how many answers are called refused or degenerate that were not before, or the other way round.
    """
    changed = 0
    for model in results["models"].values():
        rows = [prompt | said for prompt, said in zip(results["prompts"], model["answers"], strict=True)]
        for said, row in zip(model["answers"], judging.judged(rows), strict=True):
            known = "refused" in said
            changed += known and (said["refused"], said["degenerate"]) != (row["refused"], row["degenerate"])
            said |= {column: row[column] for column in _VERDICT}
    results["judge"] = judging.described()
    return changed


def score_answers(results: dict[str, Any], judging: Judging) -> None:
    """
    Puts the scores of the kept answers beside them: `scores`, `noise`, and what each differs by from those before it; under
    `probe`, how far each lies from the probe (`differences`).
    """
    rows = completion_rows(results)
    found = score_models(rows, judging.harmful.error, judging.benign.error)
    for name, part in found.items():
        results["models"][name] |= {key: getattr(part, key) for key in _KEPT}
    if "probe" in results:
        results["probe"]["differences"] = probe_differences(rows, results["probe"]["model"])


def bring_up_to_date(results: dict[str, Any], judge: str = "auto") -> list[str]:
    """
    Judges kept answers anew where the judge is another one by now, and scores them as the package does today.

    Args:
        results (`dict`):
            With answers; changed in place.
        judge (`str`, *optional*, defaults to `"auto"`):
            See [`~evaluation.judges.load_judge`].

    Returns:
        `list[str]`: a sentence for each thing that changed; none where nothing did.

    Raises:
        ValueError: If the answers were judged by a judge that is not installed here, and would be judged by a worse one.
    """
    judging = load_judging(judge)
    told, old, new = [], results["judge"], judging.described()
    if (old["name"], old["digest"]) != (new["name"], new["digest"]):
        _require_installed(old["name"], new["name"])
        changed = judge_answers(results, judging)
        count = sum(len(model["answers"]) for model in results["models"].values())
        told.append(f"judged anew: {old['name']} before, {new['name']} now; {changed} of {count} verdicts changed")
    elif old != new:
        results["judge"] = new
        told.append("the judge's error was measured anew")
    scored = [*results["models"].values(), *([results["probe"]] if "probe" in results else [])]
    kept = (*_KEPT, "differences")
    before = [{key: one[key] for key in kept if key in one} for one in scored]
    score_answers(results, judging)
    now = [{key: one[key] for key in kept if key in one} for one in scored]
    if _same(before, now):
        for one, parts in zip(scored, before, strict=True):
            one |= parts
    else:
        told.append("scores changed")
    return told


def _same(one: Any, other: Any) -> bool:
    """Tells whether two parts of a results file are the same but for rounding, which differs between processors."""
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, abs_tol=_ROUNDING)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return one == other


def _require_installed(old: str, new: str) -> None:
    """Raises where the default judge is another one only because what the old one needs is missing here."""
    if old == new or old not in judge_names():
        return
    try:
        load_judge(old)
    except (ImportError, OSError, ValueError) as error:
        why = str(error).rstrip(".")
        raise ValueError(
            f"judge: the answers were judged by {old!r}, which does not run here ({why}), and by {new!r} the rates would "
            f"change for no other reason. Install what {old!r} needs."
        ) from error
