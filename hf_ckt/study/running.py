# SPDX-License-Identifier: Apache-2.0
"""All cells of a study, several side by side, and the one evaluation in which they are compared."""

import json
import math
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..checkpoints import replace_json
from ..evaluation.measuring.models import public_name, resolve
from ..evaluation.measuring.store import only_writer
from ..progress.bars import ProgressBar
from .cells import (
    ADAPTERS,
    CELLS,
    PIECES,
    Commands,
    StepFailed,
    evaluate_one,
    evaluation_of,
    record_of,
    train_cell,
    words_of,
)
from .plan import BASE, PROGRAM, Cell, Study


def run_study(
    study: Study, folder: Path, jobs: int = 1, source: Path | None = None, tier: str | None = None
) -> dict[str, Any]:
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
        source (`Path`, *optional*), tier (`str`, *optional*):
            The study's file, and which of its tiers. Another one does not write to the same folder.

    Returns:
        `dict`: what `results.json` holds: the study, a record of each cell, and under `evaluation` where the scores stand.

    Raises:
        StepFailed: If a cell failed; the others are run first.
        ValueError: If another process runs a study in the folder, or it is that of another file, or a program is missing.
    """
    commands = Commands()
    for cell in study.cells():
        program = cell.fields.get(PROGRAM)
        if program is not None and not Path(program).is_file():
            raise ValueError(
                f"methods, {cell.method}: there is no program {program!r} below {Path.cwd()}, from where it is run. Start the "
                "study from the folder that it is relative to."
            )
    with only_writer(folder, ".lock", "study"), _ended_by_signals(commands):
        if source is not None:
            _require_own_folder(folder, str(source.resolve()) + (f", tier {tier}" if tier else ""))
        return _run(study, folder, jobs, commands)


def plan_lines(study: Study, folder: Path, jobs: int = 1) -> list[str]:
    """Returns a line for each run of a study, done or open, and one of the time that is left."""
    cells, prepared, options = study.cells(), [*study.prepared().values()], study.evaluation()
    done = {cell.name for cell in cells if _is_done(cell, options, folder)}
    lines = [f"prepare  {_state(_is_trained(cell, folder))}  {cell.name}" for cell in prepared]
    lines += [f"cell     {_state(cell.name in done)}  {cell.name}" for cell in cells]
    minutes = _minutes(study, [*prepared, *cells], folder)
    time = "how long one takes is not known before one is trained"
    if minutes is not None:
        before, open_ones = (sum(not _is_trained(cell, folder) for cell in some) for some in (prepared, cells))
        left = minutes * (before + math.ceil(open_ones / jobs))
        time = f"about {left:.0f} minutes of training ({minutes:.1f} each, {jobs} side by side), and the evaluations"
    return [*lines, f"{len(cells)} cells, {len(cells) - len(done)} open: {time}"]


def _run(study: Study, folder: Path, jobs: int, commands: Commands) -> dict[str, Any]:
    model, cells, options = resolve(study.model), study.cells(), study.evaluation()
    before = study.prepared()
    runs = ProgressBar(before.values(), desc="prepare", unit="run")
    prepared = [train_cell(cell, model, folder, commands) for cell in runs]
    evaluate_one(BASE, (), model, options, folder, commands)  # what all cells ask of it too
    compared = {name: before[name].name for name in study.compare}
    for name in compared.values():
        evaluate_one(name, [name], model, options, folder, commands)

    def one(cell: Cell) -> dict[str, Any]:
        result = train_cell(cell, model, folder, commands)
        evaluate_one(cell.name, [cell.name], model, options, folder, commands)
        return result

    with _cores_for(jobs):
        done = {cell.name for cell in cells if _is_done(cell, options, folder)}
        results = _side_by_side(cells, done, one, jobs, commands)
    groups: dict[str, list[str]] = {}
    for cell in sorted(cells, key=lambda cell: [*study.methods].index(cell.method)):
        groups.setdefault(cell.group, []).append(cell.name)
    models = [*compared.values(), *(cell.name for cell in cells)]
    words = ["evaluate", "--model", model, "--compare", *(str(folder / ADAPTERS / name) for name in models)]
    if len(study.seeds) > 1:
        words += [word for group, runs in groups.items() for word in ("--pool", group, *sorted(runs))]
    words += ["--pieces", str(folder / PIECES), "--output", str(folder / "evaluation"), *words_of(options, folder)]
    commands.run(words, folder / CELLS / "comparison")
    found = {
        "study": {**vars(study), "model": public_name(study.model)},
        "prepared": prepared,
        "cells": {cell.name: results[cell.name] for cell in cells},
        "groups": groups,
        "compared": compared,
        "evaluation": "evaluation/results.json",
    }
    replace_json(folder / "results.json", found)
    return found


def _side_by_side(
    cells: list[Cell], done: set[str], work: Callable[[Cell], dict[str, Any]], jobs: int, commands: Commands
) -> dict[str, dict[str, Any]]:
    results, failed = {}, []
    with (
        ThreadPoolExecutor(jobs) as pool,
        ProgressBar(total=len(cells), initial=len(done), desc="cells", unit="cell") as bar,
    ):
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
                    bar.update(cell.name not in done)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            commands.end()
            raise
    if failed:
        raise StepFailed(
            f"{len(failed)} of {len(cells)} cells failed, the first: {failed[0]}. Mend it and run the study again."
        )
    return results


@contextmanager
def _ended_by_signals(commands: Commands) -> Iterator[None]:
    """Lets what would end this process end its commands too: left behind, they would write on where the next study starts."""

    def stop(*_: object) -> None:
        commands.end()
        raise KeyboardInterrupt

    names = ("SIGINT", "SIGTERM", "SIGHUP") if threading.current_thread() is threading.main_thread() else ()
    signals = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = [signal.signal(one, stop) for one in signals]
    try:
        yield
    finally:
        for one, handler in zip(signals, before, strict=True):
            signal.signal(one, handler)


@contextmanager
def _cores_for(jobs: int) -> Iterator[None]:
    """Gives each job its share of the cores, unless the user has decided: two that take all wait for each other."""
    ours = jobs > 1 and "OMP_NUM_THREADS" not in os.environ
    if ours:
        os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // jobs))
    try:
        yield
    finally:
        if ours:
            del os.environ["OMP_NUM_THREADS"]


def _require_own_folder(folder: Path, source: str) -> None:
    file = folder / "source.json"
    known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else source
    if known != source:
        raise ValueError(
            f"--output: {str(folder)!r} holds the study of another file, {known!r}, and the two would mix. Name another folder."
        )
    replace_json(file, source)


def _minutes(study: Study, cells: list[Cell], folder: Path) -> float | None:
    """How long a training takes: the mean of those that are finished, else what the file says."""
    files = [record_of(cell, folder) for cell in cells]
    seconds = [json.loads(file.read_text(encoding="utf-8"))["seconds"] for file in files if file.exists()]
    return sum(seconds) / len(seconds) / 60 if seconds else study.minutes


def _is_trained(cell: Cell, folder: Path) -> bool:
    return record_of(cell, folder).exists()


def _is_done(cell: Cell, options: dict[str, Any], folder: Path) -> bool:
    return _is_trained(cell, folder) and (evaluation_of(cell.name, options, folder) / "results.json").exists()


def _state(done: bool) -> str:
    return "done" if done else "open"
