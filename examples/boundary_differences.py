# SPDX-License-Identifier: Apache-2.0
"""What a row of `boundary_ablation.py` brings over the one that it changes, prompt by prompt."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from boundary_changes import changes

from hf_ckt.evaluation.comparisons.kept_answers import score_answers
from hf_ckt.evaluation.judging import Judging


def row_differences(
    runs: Path,
    prompts: Sequence[dict[str, Any]],
    measured: Mapping[str, Sequence[Mapping[str, Any]]],
    earlier: Mapping[str, Any],
    judging: Judging,
    shown: Sequence[str],
) -> dict[str, Any]:
    """
    By row, each shown score minus that of the row that it changes: the mean over the seeds of both, and over the ends of their
    intervals. What an `earlier` results file says of the same runs is not computed again; of others the answers have to be in
    the folder `runs`.
    """
    found = {}
    for name, change in changes().items():
        pairs = [
            [mine["run"], other["run"]]
            for mine in measured.get(name, ())
            for other in measured.get(change.of, ())
            if seed_of(mine, name) == seed_of(other, change.of)
        ]
        files = [[runs / f"{run}.json" for run in pair] for pair in pairs]
        if name in earlier and earlier[name]["runs"] == pairs:
            found[name] = earlier[name]
        elif pairs and all(file.exists() for pair in files for file in pair):
            compared = [paired(*pair, prompts, judging) for pair in files]
            scores = {
                score: {end: fmean(one[score][end] for one in compared) for end in ("difference", "low", "high")}
                for score in shown
                if all(one.get(score, {}).get("low") is not None for one in compared)
            }
            found[name] = {"of": change.of, "runs": pairs, "scores": scores}
    return found


def seed_of(run: Mapping[str, Any], name: str) -> str:
    """The seed in a run's name."""
    return run["run"].removeprefix(f"{name}-").split("-")[0]


def paired(mine: Path, other: Path, prompts: Sequence[dict[str, Any]], judging: Judging) -> dict[str, Any]:
    """The scores of one run minus those of another, of their kept answers."""
    answers = {file.stem: json.loads(file.read_text(encoding="utf-8"))["answers"] for file in (other, mine)}
    models = {name: {"title": name, "answers": said} for name, said in answers.items()}
    results: dict[str, Any] = {"prompts": prompts, "models": models}
    score_answers(results, judging)
    return results["models"][mine.stem]["against"][other.stem]
