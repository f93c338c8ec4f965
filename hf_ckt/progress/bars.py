# SPDX-License-Identifier: Apache-2.0
"""How far a piece of work is: one line that is drawn over in a terminal, and whole lines, few of them, in a pipe or a file."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import time
from typing import Any

from tqdm import tqdm

# Between two lines of a bar that is written to a file, in seconds.
_QUIET_SECONDS = 30.0
# Of work that was timed for a shorter time than this, nothing is said of what is left.
_KNOWN_SECONDS = 2.0
# What moves a cursor up by a line.
_UP = "\x1b[A"
_IN_TERMINAL = "{heading}{percentage:3.0f}%|{bar:10}| {told}{whole}{postfix}"
_ON_LINES = "{heading}{told}{whole}{postfix}"


class ProgressBar(tqdm):
    """
    As `tqdm.tqdm`, with the time that is left in words. Where it is not drawn in a terminal it writes whole lines: one when
    the work is done, and before that one in 30 s.

    Args:
        *args, **kwargs:
            As for `tqdm.tqdm`. `file` is standard error by default, or what the whole that runs writes to.
        lines (`bool`, *optional*):
            Whether whole lines are written. None: where `file` is no terminal.
        only_when_told (`bool`, *optional*, defaults to `False`):
            Whether whole lines are written by `refresh` alone, and at the end.

    Example:

    >>> import io
    >>> file = io.StringIO()
    >>> with ProgressBar(total=2, desc="reading", unit="batch", file=file) as bar:
    ...     _ = bar.update(2)
    >>> file.getvalue()
    'reading: 2/2 batches in ... s\\n'
    """

    def __init__(self, *args: Any, lines: bool | None = None, only_when_told: bool = False, **kwargs: Any):
        file = kwargs.get("file") or (sys.stderr if _RUNNING is None else _RUNNING.file) or sys.stderr
        self._on_lines = not in_terminal(file) if lines is None else lines
        self._first: tuple[int, float] | None = None
        self._place: int | None = None
        self._only_when_told = only_when_told
        self._shown: int | None = None
        self._shown_at = time()
        if self._on_lines:
            seconds = float("inf") if only_when_told else _QUIET_SECONDS
            kwargs |= {"mininterval": seconds, "maxinterval": seconds, "file": _Lines(file), "bar_format": _ON_LINES}
        else:
            kwargs |= {"file": file, "bar_format": _IN_TERMINAL, "dynamic_ncols": True}
        super().__init__(*args, **kwargs)
        if not self.disable and _RUNNING is not None:
            self._place = _RUNNING.begin(self.desc.removesuffix(": "))

    @property
    def seconds_left(self) -> float | None:
        """How long the rest takes at the speed so far, without the first step, which warms up; None where that is not known."""
        if not self.total or self.disable or self._first is None:
            return None
        number, begun = self._first
        if self.n <= number:
            number, begun = self.initial, self.start_t
        passed = time() - begun
        if self.n <= number or (passed < _KNOWN_SECONDS and self.n < self.total):
            return None
        return max(passed / (self.n - number) * (self.total - self.n), 0.0)  # there may be more than was said

    @property
    def format_dict(self) -> dict[str, Any]:
        """What the line is made of."""
        known = super().format_dict
        if self.disable and not hasattr(self, "unit"):
            return dict(known)  # what never was a line has no words
        left, done = self.seconds_left, self.total is not None and self.n >= self.total
        when = f" in {duration(known['elapsed'])}" if done or not self.total else ""
        when += f", about {duration(left)} left" if left is not None and not done else ""
        unit = f" {self.unit.strip()}{'' if self.total == 1 else 'es' if self.unit.endswith('h') else 's'}"
        scaled = tqdm.format_sizeof if self.unit_scale else str
        told = scaled(self.n) + (f"/{scaled(self.total)}" if self.total else "")
        whole = None if _RUNNING is None else _RUNNING.seconds_left
        return dict(known) | {
            "heading": f"{self.desc.removesuffix(': ')}: " if self.desc else "",
            "told": f"{told}{unit}{when}",
            "bar_format": known["bar_format"] if self.total else _ON_LINES,
            "whole": "" if not whole else f" (in all about {duration(whole)} left)",
        }

    def update(self, n: float | None = 1) -> bool | None:
        """Counts further work as done."""
        if not self.disable and self._first is None and n:
            self._first = (self.n + n, time())  # type: ignore[assignment]
        updated = super().update(n)
        self._tell_whole()
        return updated

    def __iter__(self) -> Iterator[Any]:
        if self.disable:
            yield from self.iterable
            return
        try:
            for one in self.iterable:
                yield one
                self.update(1)
        finally:
            self.close()

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """Draws or writes the line."""
        if not self._on_lines:
            return bool(super().display(msg, pos))
        # Neither before anything was done, nor twice, nor of work that was broken off, behind the error that says why.
        unfinished = self.disable and self.total is not None and self.n < self.total
        if msg is not None or self.n in (self._shown, self.initial) or unfinished:
            return False
        now = time()
        if not (self._only_when_told or self.disable) and now - self._shown_at < _QUIET_SECONDS:
            return False  # a new title draws the line too
        self._shown, self._shown_at = self.n, now
        return bool(super().display(msg, 0))

    def close(self) -> None:
        """Ends the bar."""
        if not getattr(self, "disable", True):
            self._tell_whole()
        super().close()

    def _tell_whole(self) -> None:
        if self._place is not None and self.total and not self.disable and _RUNNING is not None:
            share = (self.n - self.initial) / self.total
            _RUNNING.tell(self._place, share, time() - self.start_t, self.n / self.total, self.seconds_left)


class _Lines:
    """A file that takes what is meant to be drawn over, and holds each state of it as a line of its own."""

    def __init__(self, file: Any):
        self._file = file
        self.encoding = getattr(file, "encoding", None) or "utf-8"

    def write(self, text: str) -> None:
        """Writes what is no mere movement of a cursor."""
        line = text.replace(_UP, "").strip("\r\n ")
        if line:
            self._file.write(f"{line}\n")
            self.flush()

    def flush(self) -> None:
        """Flushes the file."""
        self._file.flush()

    def isatty(self) -> bool:
        """No."""
        return False


class _Whole:
    """
    Work of several parts, each of which has a bar, and the time that is left of it.

    Each part counts by the seconds that it took in a run that was timed, so that the speed of what is done here tells how
    long the rest takes here.
    """

    def __init__(self, parts: Sequence[tuple[str, float]], file: Any):
        self.parts, self.file = list(parts), file
        self._here, self._done = -1, 0.0
        self._left: float | None = None
        self._timed: dict[int, tuple[float, float]] = {}

    def begin(self, title: str) -> int | None:
        """Goes on to the next part of this title, and returns its place; None where there is none."""
        rest = range(self._here + 1, len(self.parts))
        place = next((at for at in rest if self.parts[at][0] == title), None)
        if place is not None:
            self._here, self._done, self._left = place, 0.0, None
        return place

    def tell(self, place: int, share: float, seconds: float, done: float, left: float | None) -> None:
        """
        Takes note of a share of a part that was done in so many seconds, of how much of it is done in all, and of the seconds
        that it says itself to need.
        """
        self._timed[place] = (share * self.parts[place][1], seconds)
        if place == self._here:
            self._done, self._left = min(done, 1.0), left

    @property
    def seconds_left(self) -> float | None:
        """Of the whole; None before anything was timed."""
        work, seconds = (sum(one) for one in zip((0.0, 0.0), *self._timed.values(), strict=True))
        if seconds < _KNOWN_SECONDS or not work:
            return None
        rest = sum(size for _, size in self.parts[self._here + 1 :])
        left = (1 - self._done) * self.parts[self._here][1] * seconds / work if self._left is None else self._left
        return rest * seconds / work + left


_RUNNING: _Whole | None = None


@contextmanager
def parts_of_a_whole(parts: Sequence[tuple[str, float]], file: Any = None) -> Iterator[None]:
    """
    Lets every bar of a title among the parts say what is left of the whole, too.

    Args:
        parts (`Sequence[tuple[str, float]]`):
            In their order, the title of a bar and its share of the whole: seconds of a run that was timed. Parts that are
            skipped count as done when a later one begins.
        file (*optional*):
            What all bars write to. None: standard output, where all else is written too.
    """
    global _RUNNING
    before, _RUNNING = _RUNNING, _Whole(parts, file or sys.stdout)
    try:
        yield
    finally:
        _RUNNING = before


def in_terminal(file: Any) -> bool:
    """Returns whether a file is a terminal; what stands in for one, to write into two files at once say, need not know."""
    return bool(getattr(file, "isatty", bool)())


def duration(seconds: float) -> str:
    """
    Returns a time as people say it.

    Example:

    >>> [duration(one) for one in (0.034, 8.25, 95, 570, 9000)]
    ['0.034 s', '8.2 s', '95 s', '10 min', '2.5 h']
    """
    if seconds < 1:
        return f"{round(seconds, 3):.2g} s"
    if seconds < 120:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
