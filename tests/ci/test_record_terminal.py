# SPDX-License-Identifier: Apache-2.0
"""Recordings of a terminal: what is drawn over is gone, what names a machine is refused, and those kept hold neither."""

import io
import re
import shlex
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import Progress

from tests.scripts import load_script

ROOT = Path(__file__).parents[2]
recorder = load_script(ROOT / ".ci" / "record_terminal.py")
RECORDINGS = sorted((ROOT / "examples" / "results" / "terminal").glob("*.txt"))


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("\x1b[1;31mred\x1b[0m and plain\r\n", "red and plain"),
        ("bar 10 %\rbar 100 %\r\nend\r\n", "bar 100 %\nend"),
        ("a long line\rshort\x1b[K\r\n", "short"),
        ("one\r\ntwo\r\n\x1b[2A\x1b[2Knew\r\n", "new\ntwo"),
        ("one\r\ntwo\r\n\x1b[1A\x1b[J", "one"),
        ("wait.\b!\r\n", "wait!"),
        ("\x1b]0;title\x07text\x1b[?25l\r\n", "text"),
        ("a\x1b[3Cb\x1b[1Gc\r\n", "c   b"),
    ],
)
def test_what_is_drawn_over_is_gone(sent, kept):
    """A training of 240 steps would be 240 lines of a bar, or a bar with the rests of a longer one behind it."""
    assert recorder.shown(sent) == kept


def test_bars_of_rich_are_kept_as_they_ended():
    """Its bars are drawn by going up lines, which the lines above, printed meanwhile, must outlive."""
    said = io.StringIO()
    with Progress(console=Console(file=said, force_terminal=True, width=80), auto_refresh=False) as bars:
        first, second = (bars.add_task(name, total=4) for name in ("reading", "writing"))
        for step in range(4):
            bars.advance(first)
            bars.advance(second)
            bars.refresh()
            bars.console.print(f"step {step}")
    lines = recorder.shown(said.getvalue().replace("\n", "\r\n")).splitlines()
    assert lines[:4] == [f"step {step}" for step in range(4)]
    assert [line.split()[0] for line in lines[4:]] == ["reading", "writing"]
    assert all("100%" in line for line in lines[4:])


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("saved to /home/someone/out", "a path"),
        (r"saved to C:\Users\someone", "a path"),
        ("cached in /tmp/x", "a path"),
        ("connected to 10.0.0.7", "an address"),
        ("Looking in indexes: https://mirror.example.com/simple", "a host"),
        ("hello from build-box-3", "this machine's name"),
        ("by ann_a", "the user's name"),
    ],
)
def test_lines_that_name_a_machine_are_found(line, reason, monkeypatch):
    """What is once in the history of a repository stays there."""
    monkeypatch.setattr(recorder.socket, "gethostname", lambda: "build-box-3")
    monkeypatch.setattr(recorder.getpass, "getuser", lambda: "ann_a")
    assert recorder.left_in(line) == [f"{reason}: {line}"]


def test_lines_that_name_none_are_kept(monkeypatch):
    """A filter that finds paths in everything keeps no recording."""
    monkeypatch.setattr(recorder.getpass, "getuser", lambda: "ann_a")
    for line in (
        ".venv/bin/python examples/quickstart.py",
        "out/quickstart holds adapter/, losses.png and results.json",
        "3.1 s/step, 12/240 steps, and/or",
        "http://127.0.0.1:7860",
        "https://huggingface.co/papers/1503.02531 by annual_ann_ab",
    ):
        assert recorder.left_in(line) == []


def record(file: Path, code: str) -> int:
    return recorder.main([str(file), f"python -c {shlex.quote(code)}"])


def test_command_runs_in_a_terminal_and_is_kept_with_its_end(tmp_path, capfdbinary):
    """A program that finds no terminal shows other lines than the ones that its user sees."""
    file = tmp_path / "new" / "recording.txt"
    code = "import shutil, sys; print(sys.stdout.isatty(), shutil.get_terminal_size().columns, end='\\rdone\\n')"
    assert record(file, code) == 0
    assert re.fullmatch(r"\$ python -c .*\ndone 118\n\n\[status 0 after \d+ s\]\n", file.read_text())


@pytest.mark.parametrize("code", ["print('/home/someone')", "import sys; sys.exit(3)"])
def test_recording_that_must_not_be_kept_is_put_aside(code, tmp_path, monkeypatch, capfdbinary):
    """A demo of a quarter of an hour is not to be run again to see what was wrong with it."""
    monkeypatch.setattr(recorder, "ROOT", tmp_path / "root")
    assert record(tmp_path / "recording.txt", code) == 1
    assert not (tmp_path / "recording.txt").exists()
    assert "[status " in (tmp_path / "root" / ".cache" / "terminal" / "recording.txt").read_text()


@pytest.mark.parametrize("file", RECORDINGS, ids=lambda file: file.stem)
def test_kept_recording_names_no_machine_and_no_command_failed(file):
    """One that was made otherwise, or edited, would not have been looked through."""
    text = file.read_text(encoding="utf-8")
    commands = re.findall(r"^\$ (.+)$", text, flags=re.M)
    assert commands and re.findall(r"^\[status (\d+) after \d+ s\]$", text, flags=re.M) == ["0"] * len(commands)
    assert "\x1b" not in text and "\r" not in text
    # The names of the machine that runs the tests are no part of a recording made on another one.
    assert not [line for line in recorder.left_in(text) if re.match("a path|an address|a host", line)]


def test_there_is_a_recording():
    """The test above passes where there is nothing to check."""
    assert RECORDINGS
