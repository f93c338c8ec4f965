# SPDX-License-Identifier: Apache-2.0
"""One cell: a training and its evaluation, each a process of its own, and what is kept of them."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ..checkpoints import replace_file, replace_json
from ..hub.provenance import machine_facts
from .plan import Cell, with_folders

ADAPTERS, CELLS, PIECES = "adapters", "cells", "pieces"
_SHOWN = 2000  # letters of the end of a log


class StepFailed(Exception):
    """A training or an evaluation ended with an error; the text says where its log is and how it ends."""


def train_cell(cell: Cell, model: str, folder: Path) -> dict[str, Any]:
    """
    Trains a cell, or goes on with its training; what is kept in `cells/` is returned where it was finished before.

    Args:
        cell ([`Cell`]):
            Which.
        model (`str`):
            Hub id or folder of the base.
        folder (`Path`):
            Of the study. The adapter is saved in `adapters/NAME`.

    Returns:
        `dict`: `method`, `settings`, `seed`, `fields`, `seconds`, `peak_memory` (bytes of the process), `tokens` that were
        read up to the last log, `log` (the last entries of the trainer's), and what [`~hub.provenance.machine_facts`] says.

    Raises:
        StepFailed: If `hf-ckt train` does.
    """
    kept = folder / CELLS / f"{cell.name}.json"
    if kept.exists():
        return _read(kept)
    output = folder / ADAPTERS / cell.name
    fields = {
        "report_to": "none",
        **with_folders(cell.fields, folder / ADAPTERS),
        "model_name_or_path": model,
        "output_dir": str(output),
        "seed": cell.seed,
        "resume_from_checkpoint": "auto",
    }
    run_file = folder / CELLS / f"{cell.name}.yaml"
    replace_file(
        run_file, lambda aside: Path(aside).write_text(yaml.safe_dump(fields, sort_keys=False), encoding="utf-8")
    )
    seconds, memory = run_command(["train", "--config", str(run_file)], folder / CELLS / f"{cell.name}.train.log")
    history = _history(output)
    result = {
        "method": cell.method,
        "settings": cell.settings,
        "seed": cell.seed,
        "fields": cell.fields,
        "seconds": seconds,
        "peak_memory": memory,
        "tokens": next((entry["num_tokens"] for entry in reversed(history) if "num_tokens" in entry), None),
        "log": history[-2:],
        **machine_facts(),
    }
    replace_json(kept, result)
    return result


def evaluate_cell(cell: Cell, model: str, options: Mapping[str, Any], folder: Path) -> None:
    """Evaluates a trained cell beside its base, so that all that takes a model is kept in `pieces/` for the study's own evaluation."""
    done = folder / "evaluations" / cell.name
    if (done / "results.json").exists():
        return
    words = ["evaluate", "--model", model, "--adapter", str(folder / ADAPTERS / cell.name), "--output", str(done)]
    run_command(
        [*words, "--pieces", str(folder / PIECES), *words_of(options, folder)],
        folder / CELLS / f"{cell.name}.evaluate.log",
    )


def words_of(options: Mapping[str, Any], folder: Path) -> list[str]:
    """
    Returns options of a file as a shell has them; `true` is an option without value.

    Example:

    >>> words_of({"suite": "cpu", "as_trained": True, "only": ["direct", "noise"]}, Path("out"))
    ['--suite', 'cpu', '--as-trained', '--only', 'direct', 'noise']
    """
    words = []
    for name, value in with_folders(options, folder / ADAPTERS).items():
        if value is False or value is None:
            continue
        values = [] if value is True else value if isinstance(value, list) else [value]
        words += [f"--{str(name).replace('_', '-')}", *map(str, values)]
    return words


def run_command(words: Sequence[str], log: Path) -> tuple[float, int]:
    """
    Runs a command of `hf-ckt` in a process of its own; all that it says goes to a log.

    Returns:
        `tuple[float, int]`: seconds, and the most bytes of memory that the process held.

    Raises:
        StepFailed: If it ends with an error.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    with log.open("wb") as written:
        process = subprocess.Popen(
            [sys.executable, "-m", "hf_ckt.cli.main", *words], stdout=written, stderr=subprocess.STDOUT
        )
        try:
            _, status, used = os.wait4(process.pid, 0)
        except BaseException:
            process.terminate()
            process.wait()
            raise
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        end = log.read_text(encoding="utf-8", errors="replace")[-_SHOWN:].strip().splitlines()[-1:]
        raise StepFailed(f"hf-ckt {words[0]} ended with {process.returncode}: {''.join(end)} ({log})")
    return round(time.perf_counter() - start, 1), used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _history(output: Path) -> list[dict[str, Any]]:
    """What the trainer logged; nothing where it saved no state."""
    states = [output / "trainer_state.json", *output.glob("checkpoint-*/trainer_state.json")]
    found = [_read(file).get("log_history", []) for file in states if file.exists()]
    return max(found, key=len, default=[])


def _read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found
