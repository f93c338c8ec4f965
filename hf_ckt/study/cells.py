# SPDX-License-Identifier: Apache-2.0
"""One cell: a training and its evaluation, each a process of its own, and what is kept of them."""

import json
import math
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from ..checkpoints import last_complete_checkpoint, replace_file, replace_json
from ..hub.provenance import machine_facts, wait_for
from .plan import PROGRAM, Cell, digest, with_folders

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

ADAPTERS, CELLS, EVALUATIONS, PIECES = "adapters", "cells", "evaluations", "pieces"
_SAVED = ("adapter_config.json", "config.json")  # one of them is what a training leaves
_SHOWN = 2000  # letters of the end of a log


class StepFailed(ValueError):
    """A training or an evaluation ended with an error; the text says where its log is and how it ends."""


def train_cell(cell: Cell, model: str, folder: Path, commands: "Commands") -> dict[str, Any]:
    """
    Trains a cell, or goes on with its training; what is kept in `cells/` is returned where it was finished before.

    Args:
        cell ([`Cell`]):
            Which.
        model (`str`):
            Hub id or folder of the base.
        folder (`Path`):
            Of the study. What was trained is saved in `adapters/NAME`.
        commands ([`Commands`]):
            Runs it.

    Returns:
        `dict`: `model`, `method`, `settings`, `seed`, `fields`, `seconds` of all attempts, `peak_memory` (bytes of the
        process), `tokens` that were read up to the last log (None where there was none), `gradients` (of the logged steps the
        `median` and the `largest` norm, and how many were `not_finite`; None without a log), `log` (the trainer's last entries),
        and what [`~hub.provenance.machine_facts`] says.

    Raises:
        StepFailed: If the training fails, or leaves no model.
    """
    kept = record_of(cell, folder)
    if kept.exists():
        return _read(kept)
    output = folder / ADAPTERS / cell.name
    own = with_folders(dict(cell.fields), folder / ADAPTERS)
    program = own.pop(PROGRAM, None)
    fields = {
        "report_to": "none",
        **own,
        "model_name_or_path": model,
        "output_dir": str(output),
        "seed": cell.seed,
        "resume_from_checkpoint": "auto",
    }
    # Variables were put in when the study's file was read.
    text = yaml.safe_dump(fields, sort_keys=False).replace("$", "$$")
    run_file = folder / CELLS / f"{cell.name}.yaml"
    replace_file(run_file, lambda aside: Path(aside).write_text(text, encoding="utf-8"))
    log = folder / CELLS / f"{cell.name}.train"
    seconds, memory = commands.run(["train", "--config", str(run_file)], log, program)
    if not any((output / name).exists() for name in _SAVED):
        raise StepFailed(
            f"{program or 'hf-ckt train'} ended well, but {output} holds none of {', '.join(_SAVED)}, so there is nothing to "
            "evaluate. Let it save there."
        )
    history = _history(output)
    result = {
        "model": cell.model,
        "method": cell.method,
        "settings": cell.settings,
        "seed": cell.seed,
        "fields": cell.fields,
        "seconds": seconds,
        "peak_memory": memory,
        "tokens": _tokens(history),
        "gradients": _gradients(history),
        "log": history[-2:],
        **machine_facts("cpu" if cell.fields.get("use_cpu") else None),
    }
    replace_json(kept, result)
    return result


def record_of(cell: Cell, folder: Path) -> Path:
    """The file that is kept of a cell, written when it is trained."""
    return folder / CELLS / f"{cell.name}.json"


def evaluation_of(name: str, options: Mapping[str, Any], folder: Path) -> Path:
    """The folder of the evaluation of a cell, or of the base; of other options it is another one."""
    return folder / EVALUATIONS / f"{name}-{digest(options)}"


def evaluate_one(
    name: str, others: Sequence[str], model: str, options: Mapping[str, Any], folder: Path, commands: "Commands"
) -> None:
    """Evaluates the base and what was trained over it, so that all that takes a model is in `pieces/` for the comparison."""
    done = evaluation_of(name, options, folder)
    if (done / "results.json").exists():
        return
    compared = ["--compare", *(str(folder / ADAPTERS / other) for other in others)] if others else []
    words = ["evaluate", "--model", model, *compared, "--output", str(done), "--pieces", str(folder / PIECES)]
    commands.run([*words, *words_of(options, folder)], folder / CELLS / f"{name}.evaluate")


def words_of(options: Mapping[str, Any], folder: Path) -> list[str]:
    """
    Returns options of a file as a shell has them; `true` is an option without value.

    Example:

    >>> words_of({"suite": "cpu", "as_trained": True, "teacher": {"harmful": "@a"}, "only": ["kd", "noise"]}, Path("out"))
    ['--suite=cpu', '--as-trained', '--teacher', 'harmful=out/adapters/a', '--only', 'kd', 'noise']
    """
    words: list[str] = []
    for name, value in with_folders(options, folder / ADAPTERS).items():
        option = f"--{name.replace('_', '-')}"
        if isinstance(value, Mapping):
            value = [f"{key}={one}" for key, one in value.items()]
        if isinstance(value, list):
            words += [option, *map(str, value)]
        elif value is True:
            words.append(option)
        elif value is not None and value is not False:
            words.append(f"{option}={value}")
    return words


class Commands:
    """Commands of `hf-ckt`, each in a process of its own, that are ended together."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen] = set()
        # Taken by a signal's handler too, which may come while the same thread holds it.
        self._guard = threading.RLock()
        self._ended = False

    def end(self) -> None:
        """Ends those that run; none is started after it."""
        with self._guard:
            self._ended = True
            for process in self._running:
                process.terminate()

    def run(self, words: Sequence[str], log: Path, program: str | None = None) -> tuple[float, int | None]:
        """
        Runs a command; all that it says goes to `LOG.log`.

        Args:
            words (`Sequence[str]`):
                Of the command, without `hf-ckt`.
            log (`Path`):
                Without ending. Beside it stands what attempts before this one took.
            program (`str`, *optional*):
                A Python script that is run in place of the command, with the same options.

        Returns:
            `tuple[float, int]`: seconds of this attempt and those before it, and the most bytes of memory that a process held.

        Raises:
            StepFailed: If it ends with an error, or another process, left by a study that was killed, still runs it.
        """
        written, attempts = log.with_name(f"{log.name}.log"), log.with_name(f"{log.name}.attempts.json")
        written.parent.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        name = f"hf-ckt {words[0]}" if program is None else program
        command = ["-m", "hf_ckt.cli.main", *words] if program is None else [program, *words[1:]]
        with written.open("ab") as output, _only_one(log.with_name(f"{log.name}.lock"), name) as lock:
            place = output.tell()
            with self._guard:
                if self._ended:
                    raise StepFailed(f"{name} was not started, since the study was ended.")
                process = subprocess.Popen(
                    [sys.executable, *command],
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                    pass_fds=lock,
                )
                self._running.add(process)
            memory = wait_for(process)
            with self._guard:
                self._running.discard(process)
        before = json.loads(attempts.read_text(encoding="utf-8")) if attempts.exists() else []
        tries = [*before, {"seconds": round(time.perf_counter() - start, 1), "peak_memory": memory}]
        replace_json(attempts, tries)
        if process.returncode:
            said = _last_line(written.read_bytes()[place:][-_SHOWN:].decode("utf-8", "replace"))
            raise StepFailed(f"{name} ended with {process.returncode}: {said} ({written})")
        held = [one["peak_memory"] for one in tries if one["peak_memory"] is not None]
        return round(sum(one["seconds"] for one in tries), 1), max(held, default=None)


@contextmanager
def _only_one(file: Path, what: str) -> Iterator[tuple[int, ...]]:
    """A lock that the process which it is passed on to holds for as long as it lives, longer than a study that is killed."""
    if fcntl is None:
        yield ()
        return
    with file.open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StepFailed(
                f"{file.stem}: another {what} is at it, left by a study that was killed. Wait for it, or end it."
            ) from error
        yield (held.fileno(),)


def _last_line(text: str) -> str:
    """How a log ends, but for progress bars, which are drawn once more when an error has been said."""
    lines = [line.strip() for line in re.split(r"[\r\n]+", text)]
    return next((line for line in reversed(lines) if line and not re.search(r"\d+%\|", line)), "it said nothing")


def _history(output: Path) -> list[dict[str, Any]]:
    """What the trainer logged; nothing where it saved no checkpoint."""
    last = last_complete_checkpoint(output, required=False)
    found: list[dict[str, Any]] = [] if last is None else _read(Path(last, "trainer_state.json"))["log_history"]
    return found


def _tokens(history: Sequence[Mapping[str, Any]]) -> int | None:
    """Tokens that were read: the trainer counts anew from where it was resumed."""
    counts = [int(entry["num_tokens"]) for entry in history if "num_tokens" in entry]
    if not counts:
        return None
    return sum(last for last, following in zip(counts, [*counts[1:], 0], strict=True) if following < last)


def _gradients(history: Sequence[Mapping[str, Any]]) -> dict[str, float | int] | None:
    """How steady a training was: a norm far above the median is a spike."""
    norms = [float(entry["grad_norm"]) for entry in history if "grad_norm" in entry]
    finite = [norm for norm in norms if math.isfinite(norm)]
    if not finite:
        return {"median": 0.0, "largest": 0.0, "not_finite": len(norms)} if norms else None
    return {"median": median(finite), "largest": max(finite), "not_finite": len(norms) - len(finite)}


def _read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found
