# SPDX-License-Identifier: Apache-2.0
"""The dispatcher: which command runs, what wrong input looks like, and that help does not wait for torch."""

import subprocess
import sys
from pathlib import Path

import pytest

from hf_ckt import __version__
from hf_ckt.cli import main as cli

ROOT = Path(__file__).parents[2]


def _shell(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    import os

    command = [sys.executable, "-m", "hf_ckt.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **environment})


@pytest.fixture
def command(monkeypatch, tmp_path):
    """Installs a command called `probe` that runs a given function."""

    def install(function):
        monkeypatch.setattr(cli, "command_files", lambda: {"probe": tmp_path / "probe.py"})
        monkeypatch.setattr(cli, "_load", lambda path: function)

    return install


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_lists_every_command_file(arguments, capsys):
    """A command that the help leaves out is never found."""
    assert cli.main(arguments) == 0
    printed = capsys.readouterr().out
    files = {path.stem for path in (ROOT / "hf_ckt" / "cli").glob("*.py")} - {"__init__", "main"}
    assert {"train", "parts"} <= files
    for name in files:
        assert f"\n  {name.replace('_', '-')} " in printed


def test_help_imports_no_torch():
    """The help would take seconds on a cold disk, for a few lines of text."""
    code = (
        "import sys; from hf_ckt.cli.main import main; main(['--help']); "
        "sys.exit(bool({'torch', 'transformers', 'datasets'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=ROOT).returncode == 0


def test_version_is_the_packages(capsys):
    """Bug reports quote this line."""
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"hf-ckt {__version__}\n"


def test_unknown_command_names_the_nearest(capsys):
    """A bare 'unknown command' leaves the reader to hunt for the typo."""
    assert cli.main(["trian"]) == 2
    error = capsys.readouterr().err
    assert "unknown command 'trian'" in error and "Did you mean 'train'?" in error


@pytest.mark.parametrize("kind", [ValueError, TypeError, OSError])
def test_wrong_input_is_one_line(kind, command, capsys):
    """The sentence that says what to do must not drown in a traceback of somebody else's code."""

    def fail(argv):
        raise kind("weight: must be 0 or more,\n  got -1.")

    command(fail)
    assert cli.main(["probe"]) == 2
    assert capsys.readouterr().err == "hf-ckt probe: error: weight: must be 0 or more, got -1.\n"


@pytest.mark.parametrize("by_environment", [False, True])
def test_traceback_is_there_when_asked_for(by_environment, command, capsys, monkeypatch):
    """Without it a fault of ours that happens to be a TypeError could not be found."""

    def fail(argv):
        assert argv == []  # the flag is the dispatcher's and not passed on
        raise TypeError("broken")

    command(fail)
    if by_environment:
        monkeypatch.setenv("HF_CKT_TRACEBACK", "1")
    assert cli.main(["probe"] + ([] if by_environment else ["--traceback"])) == 2
    assert "Traceback" in capsys.readouterr().err


def test_faults_of_ours_keep_their_traceback(command):
    """Only errors of input are shortened: a failed invariant must stay loud."""

    def fail(argv):
        raise RuntimeError("an invariant")

    command(fail)
    with pytest.raises(RuntimeError, match="an invariant"):
        cli.main(["probe"])


def test_interrupt_ends_with_the_shells_code(command, capsys):
    """A script that runs several trainings has to see that this one was stopped by hand."""

    def interrupt(argv):
        raise KeyboardInterrupt

    command(interrupt)
    assert cli.main(["probe"]) == 130


def test_module_runs_as_a_program():
    """`accelerate launch -m hf_ckt.cli.main` is how several processes are started."""
    done = _shell("no-such-command")
    assert done.returncode == 2
    assert done.stderr.startswith("hf-ckt: error: unknown command 'no-such-command'.")
