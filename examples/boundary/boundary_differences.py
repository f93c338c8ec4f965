# SPDX-License-Identifier: Apache-2.0
"""What a row of `boundary_ablation.py` brings over the one that it changes, prompt by prompt."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from hf_ckt.evaluation.comparisons.kept_answers import score_answers
from hf_ckt.evaluation.judging import Judging


def row_differences(
    changed: Mapping[str, str],
    seeds: Mapping[str, Sequence[Mapping[str, Any] | None]],
    runs: Path,
    prompts: Sequence[dict[str, Any]],
    earlier: Mapping[str, Any],
    judging: Judging,
    shown: Sequence[str],
) -> dict[str, Any]:
    """
    By row, each shown score minus that of the row that it changes, the mean over the seeds of both.

    Args:
        changed (`Mapping`):
            By row, the one that it changes.
        seeds (`Mapping`):
            By row, the run of each seed, None where it was not made; of all rows in the same order.
        runs (`Path`):
            The folder that holds the runs' answers.
        prompts (`Sequence[dict]`):
            What was answered.
        earlier (`Mapping`):
            What an earlier results file says; of the same runs it is not computed again.
        judging ([`Judging`]):
            Who judged.
        shown (`Sequence[str]`):
            Names of the scores.
    """
    found = {}
    for name, of in changed.items():
        both = zip(seeds[name], seeds.get(of, ()), strict=False)  # the first row changes none
        pairs = [[mine["run"], other["run"]] for mine, other in both if mine is not None and other is not None]
        files = [[runs / f"{run}.json" for run in pair] for pair in pairs]
        if name in earlier and earlier[name]["runs"] == pairs:
            found[name] = earlier[name]
        elif pairs and all(file.exists() for pair in files for file in pair):
            compared = [paired(*pair, prompts, judging) for pair in files]
            found[name] = {"of": of, "runs": pairs, "scores": means(compared, shown, "difference")}
    return found


def means(runs: Sequence[Mapping[str, Any]], shown: Sequence[str], value: str = "value") -> dict[str, Any]:
    """Of each score the mean over runs, of its value and of the ends of its interval; without scores that miss one."""
    found = {}
    for score in shown:
        rows = [[run[score][end] for end in (value, "low", "high")] for run in runs if score in run]
        if len(rows) == len(runs) and all(one is not None for row in rows for one in row):
            found[score] = dict(zip((value, "low", "high"), map(fmean, zip(*rows, strict=True)), strict=True))
    return found


def paired(mine: Path, other: Path, prompts: Sequence[dict[str, Any]], judging: Judging) -> dict[str, Any]:
    """The scores of one run minus those of another, of their kept answers."""
    answers = {file.stem: json.loads(file.read_text(encoding="utf-8"))["answers"] for file in (other, mine)}
    models = {name: {"title": name, "answers": said} for name, said in answers.items()}
    results: dict[str, Any] = {"prompts": prompts, "models": models}
    score_answers(results, judging)
    return results["models"][mine.stem]["against"][other.stem]
