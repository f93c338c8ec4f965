# SPDX-License-Identifier: Apache-2.0
"""All cells of a study, several side by side, and the one evaluation in which they are compared."""

import json
import os
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..checkpoints import replace_json
from ..evaluation.measuring.models import public_name, resolve
from ..evaluation.measuring.store import only_writer
from .cells import ADAPTERS, CELLS, PIECES, StepFailed, evaluate_cell, run_command, train_cell, words_of
from .plan import Cell, Study


def run_study(study: Study, folder: Path, jobs: int = 1) -> dict[str, Any]:
    """
    Runs what is not finished of a study, then compares all of its cells in one evaluation, seeds pooled by method.

    Stopped at any moment, the same call goes on where it was: finished cells stay, a training goes on from its last
    checkpoint, an evaluation from the last batch of prompts.

    Args:
        study ([`Study`]):
            What to run.
        folder (`Path`):
            Where everything is kept: `cells/` (a JSON file each, with logs), `adapters/`, `evaluation/`, `results.json`.
        jobs (`int`, *optional*, defaults to `1`):
            Cells side by side, each in a process of its own with its share of the CPU's cores.

    Returns:
        `dict`: what `results.json` holds: the study, a record of each cell, and under `evaluation` where the scores stand.

    Raises:
        StepFailed: If a cell failed; the others are run first.
        ValueError: If another process runs a study in the folder.
    """
    with only_writer(folder, ".lock", "study"), _cores_for(jobs):
        return _run(study, folder, jobs)


def plan_lines(study: Study, folder: Path, jobs: int = 1) -> list[str]:
    """Returns a line for each run of a study, done or open, and one of the time that is left."""
    cells = study.cells()
    done = {cell.name for cell in cells if _is_done(cell, folder)}
    lines = [f"prepare  {_state(_is_trained(cell, folder))}  {cell.name}" for cell in study.prepared().values()]
    lines += [f"cell     {_state(cell.name in done)}  {cell.name}" for cell in cells]
    minutes = _minutes(study, cells, folder)
    left = len(cells) - len(done)
    time = "not known before one is measured"
    if minutes is not None:
        time = f"about {minutes * left / jobs:.0f} minutes of training, {minutes:.1f} a cell, {jobs} side by side"
    return [*lines, f"{len(cells)} cells, {left} open: {time}"]


def _run(study: Study, folder: Path, jobs: int) -> dict[str, Any]:
    model, cells = resolve(study.model), study.cells()
    options = study.evaluation()
    prepared = [
        train_cell(cell, model, folder) for cell in tqdm(study.prepared().values(), desc="prepare", unit="run")
    ]

    def one(cell: Cell) -> dict[str, Any]:
        result = train_cell(cell, model, folder)
        evaluate_cell(cell, model, options, folder)
        return result

    results = _side_by_side(cells, one, jobs)
    comparison = folder / "evaluation"
    names = [cell.name for cell in cells]
    groups: dict[str, list[str]] = {}
    for cell in sorted(cells, key=lambda cell: [*study.methods].index(cell.method)):
        groups.setdefault(cell.group, []).append(cell.name)
    words = ["evaluate", "--model", model, "--compare", *(str(folder / ADAPTERS / name) for name in names)]
    if len(study.seeds) > 1:
        words += [word for group, runs in groups.items() for word in ("--pool", group, *sorted(runs))]
    words += ["--pieces", str(folder / PIECES), "--output", str(comparison), *words_of(options, folder)]
    run_command(words, folder / CELLS / "comparison.log")
    found = {
        "study": {**vars(study), "model": public_name(study.model)},
        "prepared": prepared,
        "cells": {cell.name: results[cell.name] for cell in cells},
        "groups": groups,
        "evaluation": "evaluation/results.json",
    }
    replace_json(folder / "results.json", found)
    return found


def _side_by_side(cells: list[Cell], work: Callable[[Cell], dict[str, Any]], jobs: int) -> dict[str, dict[str, Any]]:
    results, failed = {}, []
    with ThreadPoolExecutor(jobs) as pool, tqdm(total=len(cells), desc="cells", unit="cell") as bar:
        running = {pool.submit(work, cell): cell for cell in cells}
        try:
            while running:
                for ended in wait(running, return_when=FIRST_COMPLETED).done:
                    cell = running.pop(ended)
                    try:
                        results[cell.name] = ended.result()
                    except StepFailed as error:
                        failed.append(f"{cell.name}: {error}")
                        bar.write(failed[-1])
                    bar.update()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if failed:
        raise StepFailed(
            f"{len(failed)} of {len(cells)} cells failed, the first: {failed[0]}. Mend it and run the study again."
        )
    return results


class _cores_for:
    """Gives each job its share of the cores, unless the user has decided: two that take all wait for each other."""

    def __init__(self, jobs: int):
        self.jobs = jobs
        self.set = jobs > 1 and "OMP_NUM_THREADS" not in os.environ

    def __enter__(self) -> None:
        if self.set:
            os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // self.jobs))

    def __exit__(self, *_: object) -> None:
        if self.set:
            del os.environ["OMP_NUM_THREADS"]


def _minutes(study: Study, cells: list[Cell], folder: Path) -> float | None:
    """How long a training takes: the mean of those that are finished, else what the file says."""
    files = [folder / CELLS / f"{cell.name}.json" for cell in cells]
    seconds = [json.loads(file.read_text(encoding="utf-8"))["seconds"] for file in files if file.exists()]
    return sum(seconds) / len(seconds) / 60 if seconds else study.minutes


def _is_trained(cell: Cell, folder: Path) -> bool:
    return (folder / CELLS / f"{cell.name}.json").exists()


def _is_done(cell: Cell, folder: Path) -> bool:
    return _is_trained(cell, folder) and (folder / "evaluations" / cell.name / "results.json").exists()


def _state(done: bool) -> str:
    return "done" if done else "open"
