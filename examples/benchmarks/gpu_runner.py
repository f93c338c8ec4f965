# SPDX-License-Identifier: Apache-2.0
"""Runs jobs in order until the time is used up, those that share a device side by side, and keeps what is done."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from child_process import end_with_parent
from gpu_jobs import ROOT, Job
from hf_ckt.checkpoints import replace_json

_POLL_SECONDS = 0.1
_SLACK_SECONDS = 5  # by which a job may outlast the one that it runs beside: estimates are no finer
# Of jobs that share the device: each has a process with a copy of torch or more.
SIDE_BY_SIDE = 4
DONE, FAILED, LEFT = "done", "failed", "left"


@dataclass
class Outcome:
    """
    What came of a job.

    Args:
        state (`str`):
            `done`, `failed` or `left`, which was not begun.
        seconds (`float`):
            What it took.
        why (`str`):
            One line; empty when done.
        earlier (`bool`):
            Done by an earlier run.
    """

    state: str
    seconds: float = 0.0
    why: str = ""
    earlier: bool = False


class StateFile:
    """
    What is done, with the code and the device that it was done with; other code or another device begins anew.

    Args:
        path (`Path`):
            The file; written aside and renamed.
        code (`str`), device (`str`):
            As now.
    """

    def __init__(self, path: Path, code: str, device: str):
        self.path, self.code, self.device = path, code, device
        self.jobs: dict[str, dict[str, Any]] = {}
        with suppress(OSError, ValueError, KeyError, TypeError):
            document = json.loads(path.read_text(encoding="utf-8"))
            if document["code"] == code and document["device"] == device:
                self.jobs = document["jobs"]

    def is_done(self, job: Job) -> bool:
        """Whether the job was finished and its file is still there."""
        return self.jobs.get(job.name, {}).get("state") == DONE and job.results.exists()

    def take(self, job: Job, outcome: Outcome) -> None:
        """Writes what came of a job."""
        ended = time.strftime("%Y-%m-%dT%H:%M:%S")
        self.jobs[job.name] = {**asdict(outcome), "command": job.command, "ended": ended}
        replace_json(self.path, {"code": self.code, "device": self.device, "jobs": self.jobs})


class Running:
    """
    A job's process, in a session of its own, with its log.

    Args:
        job (`Job`):
            What to run.
        environment (`Mapping[str, str]`):
            Its variables, all of them.
        log (`Path`):
            File for all that it prints.
        limit (`float`):
            Seconds.
    """

    def __init__(self, job: Job, environment: Mapping[str, str], log: Path, limit: float):
        self.job, self.log, self.limit = job, log, limit
        log.parent.mkdir(parents=True, exist_ok=True)
        job.results.parent.mkdir(parents=True, exist_ok=True)
        self.start = time.monotonic()
        with log.open("wb") as stream:
            self.process = subprocess.Popen(
                job.words,
                cwd=ROOT,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=end_with_parent,
            )

    def outcome(self) -> Outcome | None:
        """Returns what came of it once it has ended, having ended it if it is over its limit; else None."""
        code, seconds = self.process.poll(), time.monotonic() - self.start
        if code is None and seconds < self.limit:
            return None
        # Also after it has ended: what it started may have stayed.
        self.kill()
        if code is None:
            return Outcome(FAILED, seconds, f"stopped after {seconds:.0f} s, its limit: {last_words(self.log)}")
        if code:
            how = f"exit code {code}" if code > 0 else f"signal {-code}"
            return Outcome(FAILED, seconds, f"{how}: {last_words(self.log)}")
        if not self.job.results.exists():
            return Outcome(FAILED, seconds, f"ended without writing {self.job.results.name}: {last_words(self.log)}")
        return Outcome(DONE, seconds)

    def kill(self) -> None:
        """Ends the process with all that it started, also what went into a session of its own."""
        # Listed before the parent goes: afterwards they are nobody's.
        started = descendants(self.process.pid)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        for process in started:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGKILL)
        self.process.wait()


def run_jobs(
    jobs: Sequence[Job],
    *,
    seconds: float,
    state: StateFile,
    logs: Path,
    environment: Mapping[str, str],
    say: Callable[[str], None],
    missing: Mapping[str, str] | None = None,
) -> dict[str, Outcome]:
    """
    Runs jobs, first things first, and returns what came of each, in their order.

    A job begins when its estimate fits into the time that is left. While the first in line shares the device, later ones
    that share it and should end before it run beside it: they cost no time of their own. All others run alone.

    Args:
        jobs (`Sequence[Job]`):
            In order of value.
        seconds (`float`):
            Time for all. Nothing runs longer.
        state ([`StateFile`]):
            What is done already is not done again.
        logs (`Path`):
            Folder of a log a job.
        environment (`Mapping[str, str]`):
            Variables of the processes.
        say (`Callable`):
            Is given a line when a job begins and when it ends.
        missing (`Mapping[str, str]`, *optional*):
            Names of jobs that cannot run here, and why.
    """
    end = time.monotonic() + seconds
    found: dict[str, Outcome] = {}
    for job in jobs:
        if missing and job.name in missing:
            found[job.name] = Outcome(LEFT, why=missing[job.name])
        elif state.is_done(job):
            found[job.name] = Outcome(DONE, state.jobs[job.name]["seconds"], earlier=True)
    waiting = [job for job in jobs if job.name not in found]
    # What failed before comes after what was never tried: a restart should bring something new first.
    waiting.sort(key=lambda job: state.jobs.get(job.name, {}).get("state") == FAILED)
    running: list[Running] = []
    try:
        while waiting or running:
            left = end - time.monotonic()
            for job in [one for one in waiting if one.estimate_s > left]:
                waiting.remove(job)
                found[job.name] = Outcome(
                    LEFT, why=f"needs about {job.estimate_s:.0f} s, {max(left, 0):.0f} s were left"
                )
            while (due := _next(waiting, running)) is not None:
                waiting.remove(due)
                say(f"{due.name}: {due.what}; about {due.estimate_s:.0f} s, {left / 60:.1f} minutes left")
                running.append(Running(due, environment, logs / f"{due.name}.log", min(due.limit_s, left)))
            for one in [*running]:
                outcome = one.outcome()
                if outcome is not None:
                    running.remove(one)
                    found[one.job.name] = outcome
                    state.take(one.job, outcome)
                    say(
                        f"{one.job.name}: {outcome.state} in {outcome.seconds:.0f} s{outcome.why and ': '}{outcome.why}"
                    )
            if running:
                time.sleep(_POLL_SECONDS)
    finally:
        for one in running:
            one.kill()
    return {job.name: found[job.name] for job in jobs}


def _next(waiting: list[Job], running: list[Running]) -> Job | None:
    """The job to begin now: the first in line, or beside those that share, one that shares and should not outlast them."""
    if not running:
        return waiting[0] if waiting else None
    if len(running) >= SIDE_BY_SIDE or not all(one.job.shares for one in running):
        return None
    until = max(one.start + one.job.estimate_s for one in running) - time.monotonic() + _SLACK_SECONDS
    return next((job for job in waiting if job.shares and job.estimate_s <= until), None)


def last_words(log: Path, lines: int = 3, length: int = 400) -> str:
    """Returns the last lines of a log as one."""
    text = log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n") if log.exists() else ""
    kept = [" ".join(line.split()) for line in text.splitlines()]
    return " | ".join([line for line in kept if line][-lines:])[-length:] or "it printed nothing"


def descendants(process: int) -> list[int]:
    """Returns the processes below one, by Linux's /proc; none where there is no such folder."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError, IndexError):
            # The name in brackets may hold anything, brackets too.
            parent = int(path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(path.parent.name))
    found, due = [], [process]
    while due:
        for child in children.get(due.pop(), []):
            found.append(child)
            due.append(child)
    return found
