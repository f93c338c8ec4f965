# SPDX-License-Identifier: Apache-2.0
"""
What `profile_step.py` does: after the warm-up one step timed by phase, one under the profiler, one that says who waits.

They are three because each disturbs the next: phases are timed by waiting for the device, which the profiler would
count; stacks slow everything down.
"""

import tempfile
import time
import traceback
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch.profiler import DeviceType, ProfilerActivity, profile, record_function
from transformers import TrainerCallback

from step_worker import Memory, build_trainer

_ON_CUDA = torch.cuda.is_available()
# Where the host stands still until the device has caught up, by the profiler's names.
WAITS = (
    "cudaStreamSynchronize",
    "cudaDeviceSynchronize",
    "cudaEventSynchronize",
    "aten::item",
    "aten::_local_scalar_dense",
    "aten::nonzero",
)
KERNELS = 25
_POINTS = 500
_MEMORY_EVENT = "[memory]"


def profile_step(job: dict[str, Any], warmup: int) -> dict[str, Any]:
    """
    Returns `phases`, `kernels`, `waits`, `wait_places`, `peak_bytes` and `memory` of one training step.

    Args:
        job (`dict`):
            As `step_worker.build_trainer` reads it, without steps and folder.
        warmup (`int`):
            Steps before.
    """
    with tempfile.TemporaryDirectory(prefix="hf_ckt_profile_") as folder:
        trainer = build_trainer({**job, "steps": warmup + 3, "folder": folder})
        steps = ProfiledSteps(trainer, warmup)
        trainer.train()
    return steps.measured


class ProfiledSteps(TrainerCallback):
    """
    Looks at three steps of a trainer after the warm-up.

    Args:
        trainer (`Trainer`):
            Whose steps; the callback is added to it, and its phases are marked.
        warmup (`int`):
            Steps before.
    """

    def __init__(self, trainer: Any, warmup: int):
        self.warmup = warmup
        self.memory = Memory()
        self.measured: dict[str, Any] = {}
        self.timed = False
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.profiler: profile | None = None
        self.places: Any = None
        trainer.compute_loss = self._marked("forward", trainer.compute_loss)
        trainer.accelerator.backward = self._marked("backward", trainer.accelerator.backward)
        trainer.add_callback(self)

    def _marked(self, phase: str, call: Callable) -> Callable:
        @wraps(call)  # with its attributes: the learning rate scheduler looks for its own mark
        def marked(*args: Any, **kwargs: Any) -> Any:
            if self.timed:
                _wait()
            start = time.perf_counter()
            with record_function(f"phase {phase}"):
                returned = call(*args, **kwargs)
            if self.timed:
                _wait()
                self.seconds[phase] += time.perf_counter() - start
            return returned

        return marked

    def on_step_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
        if state.global_step == 0 and optimizer is not None:
            optimizer.step = self._marked("optimizer", optimizer.step)
        number = state.global_step - self.warmup
        _wait()
        self.timed = number == 0
        if number == 0:
            self.memory.reset()
        if number == 1:
            self.held = torch.cuda.memory_allocated() if _ON_CUDA else 0
            activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * _ON_CUDA]
            self.profiler = profile(activities=activities, profile_memory=True)
            self.profiler.start()
        if number == 2:
            self.places = places_of_waits()
            self.found = self.places.__enter__()
        self.start = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        number = state.global_step - 1 - self.warmup
        if number < 0 or self.measured.keys() >= {"wait_places"}:
            return
        _wait()
        seconds = time.perf_counter() - self.start
        if number == 0:
            phases = {**self.seconds, "else": seconds - sum(self.seconds.values())}
            self.measured |= {"seconds": seconds, "phases": phases, "peak_bytes": self.memory.peak_bytes()}
            self.measured["peak_source"] = self.memory.source
        elif number == 1 and self.profiler is not None:
            self.profiler.stop()
            self.measured |= {"profiled_seconds": seconds, **read_profile(self.profiler, self.held)}
            self.profiler = None
        elif number == 2:
            self.places.__exit__(None, None, None)
            self.measured["wait_places"] = [{"place": place, "count": n} for place, n in self.found.most_common()]


def read_profile(profiler: profile, held: int) -> dict[str, Any]:
    """
    Returns the longest kernels (operations where there is no GPU), the waits, and the allocated bytes over time.

    Args:
        profiler (`torch.profiler.profile`):
            Of one step, stopped.
        held (`int`):
            Bytes that were allocated when it began.
    """
    averages = profiler.key_averages()
    kind = DeviceType.CUDA if _ON_CUDA else DeviceType.CPU
    rows = []
    for event in averages:
        mark = getattr(event, "is_user_annotation", False) or event.key.startswith(("phase ", "ProfilerStep"))
        if event.device_type == kind and not mark and event.key != _MEMORY_EVENT:
            microseconds = event.self_device_time_total if _ON_CUDA else event.self_cpu_time_total
            rows.append({"name": event.key, "calls": event.count, "seconds": microseconds / 1e6})
    if not rows:
        raise ValueError(
            f"The profiler recorded no {'kernel' if _ON_CUDA else 'operation'}, so the step's time would be shown as "
            "spent on nothing. On a GPU it needs CUPTI, which another profiler may hold; end that one."
        )
    total = sum(row["seconds"] for row in rows)
    rows.sort(key=lambda row: -row["seconds"])
    counts = {event.key: event.count for event in averages if event.key in WAITS}
    return {
        "kernel_kind": "kernel" if _ON_CUDA else "operation",
        "kernel_seconds": total,
        "kernels": [{**row, "share": row["seconds"] / total if total else 0.0} for row in rows[:KERNELS]],
        "waits": {name: counts.get(name, 0) for name in WAITS},
        "memory": memory_timeline(profiler, kind, held),
    }


def memory_timeline(profiler: profile, kind: Any, held: int) -> dict[str, list[float]]:
    """Returns milliseconds since the first memory event, and the allocator's bytes then; highs survive the thinning."""
    # The raw events, as in memory.py: the summed-up ones do not say when.
    results = profiler.profiler.kineto_results  # type: ignore[union-attr]
    events = sorted(
        (event.start_ns(), event.nbytes())  # type: ignore[union-attr]
        for event in results.events()  # type: ignore[union-attr]
        if event.name() == _MEMORY_EVENT and event.device_type() == kind
    )
    points, allocated = [], held
    for nanoseconds, size in events:
        allocated += size
        points.append(((nanoseconds - events[0][0]) / 1e6, allocated))
    kept = thinned(points, _POINTS)
    return {"milliseconds": [round(one, 4) for one, _ in kept], "bytes": [size for _, size in kept]}


def thinned(points: list[tuple[float, int]], count: int) -> list[tuple[float, int]]:
    """
    Returns at most about so many points: of each run of neighbours the highest, and the last of all.

    Example:

    >>> thinned([(0, 1), (1, 5), (2, 2), (3, 3)], 2)
    [(1, 5), (3, 3)]
    """
    width = max(1, -(-len(points) // count))
    return [max(points[i : i + width], key=lambda point: point[1]) for i in range(0, len(points), width)]


@contextmanager
def places_of_waits() -> Iterator[Counter[str]]:
    """
    Counts, while it is open, where the host waits for the device: the innermost line of hf_ckt, and the one below it that waits.

    Asks torch's synchronization debugging on a GPU. Elsewhere nothing waits, and the lines are those that read a
    tensor's value, which on a GPU would.
    """
    found: Counter[str] = Counter()
    if not _ON_CUDA:
        with _counting_reads(found):
            yield found
        return
    before, shown = torch.cuda.get_sync_debug_mode(), warnings.showwarning

    def take(message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: Any = None) -> None:
        # Not the notice that the mode itself is a prototype.
        if "synchronizing CUDA operation" in str(message):
            found[_place()] += 1
        else:
            shown(message, category, filename, lineno, file, line)

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = take
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode(before)


@contextmanager
def _counting_reads(found: Counter[str]) -> Iterator[None]:
    names = ("item", "tolist", "nonzero", "__bool__", "__float__", "__int__", "__index__")
    plain = {name: getattr(torch.Tensor, name) for name in names}

    def counted(call: Callable) -> Callable:
        def method(*args: Any, **kwargs: Any) -> Any:
            found[_place()] += 1
            return call(*args, **kwargs)

        return method

    for name, call in plain.items():
        setattr(torch.Tensor, name, counted(call))
    try:
        yield
    finally:
        for name, call in plain.items():
            setattr(torch.Tensor, name, call)


def _place() -> str:
    frames = [frame for frame in traceback.extract_stack() if frame.filename != __file__]
    own = [frame for frame in frames if "/hf_ckt/" in frame.filename.replace("\\", "/")]
    shown = _shown(frames[-1])
    return f"{_shown(own[-1])} > {shown}" if own and own[-1] is not frames[-1] else shown


def _shown(frame: traceback.FrameSummary) -> str:
    """File from its package on, line and function."""
    path = frame.filename.replace("\\", "/").rpartition("/site-packages/")[2]
    # The last of that name: a folder above the package may be called the same.
    parts = path.split("/")
    start = len(parts) - 1 - parts[::-1].index("hf_ckt") if "hf_ckt" in parts else 0
    return f"{'/'.join(parts[start:])}:{frame.lineno} {frame.name}"


def _wait() -> None:
    if _ON_CUDA:
        torch.cuda.synchronize()
