# SPDX-License-Identifier: Apache-2.0
"""Runs variants of a training step in processes of their own, which take their steps in turn."""

import json
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from cases import BASELINE
from child_process import end_with_parent
from harness import summary

# What is run; it speaks as step_worker.py says.
_WORKER = (sys.executable, str(Path(__file__).with_name("step_worker.py")))
# First task losses of the same model on the same batch, computed by different kernels.
_TOLERANCE = {"fp32": 1e-3, "bf16": 2e-2, "nf4": 2e-2}


class WorkerError(RuntimeError):
    """A worker ended, or did other work than it should; the message is one line."""


class Worker:
    """
    One variant in one process, as a context that never leaves the process behind.

    Args:
        name (`str`):
            The variant.
        job (`dict`):
            What the process reads first; see `step_worker.build_trainer`.
        folder (`Path`):
            Its error stream is kept there, to be quoted when it dies.

    Raises:
        WorkerError: By [`step`] and [`expect`], when the process has ended.
    """

    def __init__(self, name: str, job: dict[str, Any], folder: Path):
        self.name, self.job = name, job
        self.log = folder / f"{name}.log"
        self.seconds: list[float] = []
        self.first_log: dict[str, float] = {}
        self.facts: dict[str, Any] = {}
        self._process: Any = None  # a Popen, once started

    def start(self) -> None:
        """Starts the process without waiting until it has loaded; entering the context waits."""
        environment = {**os.environ, "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
        with self.log.open("wb") as log:
            # A session of its own: Ctrl-C reaches the parent alone, which then ends it with all that it started.
            self._process = subprocess.Popen(
                _WORKER,
                preexec_fn=end_with_parent,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                start_new_session=True,
                text=True,
            )
        self._write(json.dumps(self.job))

    def __enter__(self) -> "Worker":
        if self._process is None:
            self.start()
        try:
            self.expect("ready")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends the process if it is still there."""
        if self._process is None:
            return
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            with suppress(BrokenPipeError):
                stream.close()

    def step(self, last: bool) -> float:
        """Lets the process take a step and returns its seconds; returns only when the process is idle again."""
        self._write("step")
        seconds = self.expect("step")["seconds"]
        self.seconds.append(seconds)
        report = self.expect("done" if last else "ready")
        if last:
            self.facts = report
            self._process.wait()  # its end takes time too, which is not to fall into another's step
        else:
            self.first_log = report["first_log"]
        return seconds

    def expect(self, event: str) -> dict[str, Any]:
        """Reads the next report, which must be of this kind."""
        line = self._process.stdout.readline()
        if not line:
            raise WorkerError(f"{self.name}: its process ended ({self._reason()}): {self._last_words()}")
        report = json.loads(line)
        if report["event"] != event:
            raise WorkerError(f"{self.name}: reported {report['event']!r} where {event!r} was due.")
        return report

    def _write(self, line: str) -> None:
        with suppress(BrokenPipeError):  # the read that follows finds the end and says why
            print(line, file=self._process.stdin, flush=True)

    def _reason(self) -> str:
        code = self._process.wait()
        if code >= 0:
            return f"exit code {code}"
        out_of_memory = ", often for lack of memory" if -code == signal.SIGKILL else ""
        return f"signal {-code}{out_of_memory}"

    def _last_words(self) -> str:
        lines = [line.strip() for line in self.log.read_text(encoding="utf-8", errors="replace").splitlines()]
        return " | ".join([line for line in lines if line][-3:])[-500:] or "it wrote no error"


def measure_group(
    jobs: dict[str, dict[str, Any]],
    *,
    warmup: int,
    repeats: int,
    precision: str,
    folder: Path,
    say: Callable[[str], None],
    load_together: bool = False,
) -> tuple[dict[str, Any], dict[str, str]]:
    """
    Measures variants against each other: all are loaded, then take one step each, round after round.

    Args:
        jobs (`dict[str, dict]`):
            Variant to job; the baseline is among them.
        warmup (`int`), repeats (`int`):
            Steps that are not counted, and that are. The first is compared with the baseline's: same loss of the task,
            same number of kept tokens.
        precision (`str`):
            Of the case; decides how close the losses must be.
        folder (`Path`):
            For the error streams.
        say (`Callable`):
            Is given lines on progress.
        load_together (`bool`, *optional*, defaults to `False`):
            Load all at the same time: sooner where cores and memory suffice for it.

    Returns:
        `tuple[dict, dict]`: what was measured by variant, ratios to the baseline of this very group among it; and one
        line on each variant that failed.

    Raises:
        WorkerError: If the baseline fails: there would be nothing to compare with.
    """
    errors: dict[str, str] = {}
    workers: list[Worker] = []
    with ExitStack() as alive:

        @contextmanager
        def attempt(name: str) -> Iterator[None]:
            try:
                yield
            except WorkerError as error:
                if name == BASELINE:
                    raise
                say(f"failed: {error}")
                errors[name] = str(error)

        for name in sorted(jobs, key=lambda name: name != BASELINE):
            workers.append(Worker(name, jobs[name], folder))
            alive.callback(workers[-1].stop)
            if load_together:
                workers[-1].start()
        for worker in workers:
            say(f"{worker.name}: loading")
            with attempt(worker.name):
                alive.enter_context(worker)
        workers = [worker for worker in workers if worker.name not in errors]
        for number in range(warmup + repeats):
            kind = f"warm-up {number + 1}" if number < warmup else f"step {number - warmup + 1} of {repeats}"
            # The baseline first in the warm-up, to be compared with; then each has each place in the round.
            turn = number % len(workers) if number >= warmup else 0
            for worker in workers[turn:] + workers[:turn]:
                if worker.name in errors:
                    continue
                with attempt(worker.name):
                    seconds = worker.step(last=number == warmup + repeats - 1)
                    if number == 0 and worker.name != BASELINE:
                        _require_same_task(worker, workers[0], _TOLERANCE[precision])
                    say(f"{worker.name}: {kind}: {seconds:.3f} s")
                if worker.name in errors:
                    worker.__exit__(None, None, None)  # now: its memory is another's
    finished = {worker.name: _measures(worker, warmup) for worker in workers if worker.name not in errors}
    baseline = finished[BASELINE]
    for measures in finished.values():
        measures["baseline_seconds"] = baseline["seconds"]["median"]
        measures["relative_seconds"] = measures["seconds"]["median"] / baseline["seconds"]["median"]
        measures["relative_peak"] = measures["peak_bytes"] / baseline["peak_bytes"]
    return finished, errors


def _measures(worker: Worker, warmup: int) -> dict[str, Any]:
    facts = worker.facts
    seconds = summary(worker.seconds[warmup:])
    tokens = statistics.median(facts["kept_tokens"][warmup:])
    return {
        "seconds": seconds,
        "tokens_per_second": tokens / seconds["median"],
        "kept_tokens": facts["kept_tokens"][-1],
        "peak_bytes": facts["peak_bytes"],
        # Over the process that has loaded its models and not yet taken a step.
        "peak_extra_bytes": None if facts["before_bytes"] is None else facts["peak_bytes"] - facts["before_bytes"],
        "compiled": facts["compiled"],
        "host_peak_bytes": facts["host_peak_bytes"],
        "peak_source": facts["peak_source"],
        "cold": {"seconds": worker.seconds[:warmup], "peak_bytes": facts["cold_peak_bytes"]},
        "first_log": worker.first_log,
        "losses": facts["losses"],
    }


def _require_same_task(worker: Worker, baseline: Worker, tolerance: float) -> None:
    """Raises WorkerError when a variant's first loss of the task is not the baseline's: it would be other work."""
    # A fresh adapter changes nothing, so before the first update all are the same model. NEFTune adds noise to it, and
    # GKD's loss is a divergence alone; those two have no loss of the task to compare.
    task = worker.first_log.get("task_loss")
    expected = baseline.first_log["loss"]
    if task is not None and abs(task - expected) > tolerance * abs(expected):
        raise WorkerError(
            f"{worker.name}: its first loss of the task is {task:.5f}, {BASELINE}'s {expected:.5f}: not the same work."
        )
