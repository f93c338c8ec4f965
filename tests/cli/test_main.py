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


@pytest.mark.parametrize(
    "kind", [KeyError, AttributeError, IndexError, StopIteration, RuntimeError, AssertionError, ZeroDivisionError]
)
def test_what_nobody_foresaw_names_itself_and_the_way_to_its_traceback(kind, command, capsys):
    """A KeyError whose message is a lone word drowns in a traceback, or, shortened to it, says nothing."""

    def fail(argv):
        raise kind("prompt")

    command(fail)
    assert cli.main(["probe"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"hf-ckt probe: error: {kind.__name__}: ") and "prompt" in error
    assert "cli/test_main.py, line " in error and "--traceback" in error and error.count("\n") == 1


def _template_error():
    from jinja2 import TemplateError

    raise TemplateError("System role not supported")


def _csv_error():
    import csv

    limit = csv.field_size_limit(10)
    try:
        list(csv.reader(["x" * 11]))
    finally:
        csv.field_size_limit(limit)


def _generation_error():
    from datasets.exceptions import DatasetGenerationError

    raise DatasetGenerationError("An error occurred while generating the dataset")


@pytest.mark.parametrize("raised", [_template_error, _csv_error, _generation_error])
def test_errors_of_libraries_end_in_one_line(raised, command, capsys):
    """None of these is a ValueError, and each is what a wrong file or template ends in."""
    command(lambda argv: raised())
    assert cli.main(["probe"]) == 1
    assert capsys.readouterr().err.startswith("hf-ckt probe: error: ")


def test_refused_connections_name_the_hub(command, capsys, monkeypatch):
    """A connection that is refused says neither to what nor which setting says so."""
    from huggingface_hub.utils import get_session

    # The discard port, on which nothing listens.
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    command(lambda argv: get_session().request("GET", "http://127.0.0.1:9") and 0)
    assert cli.main(["probe"]) != 0
    error = capsys.readouterr().err
    assert error.startswith("hf-ckt probe: error: the Hub at http://127.0.0.1:9 could not be used (ConnectError")


@pytest.mark.parametrize("slip", [lambda: None + 1, lambda: int("x"), lambda: {}.nothing])
def test_slips_are_not_told_as_if_they_were_sentences(slip, command, capsys):
    """`unsupported operand` alone looks like an answer to what the user typed."""
    command(lambda argv: slip())
    assert cli.main(["probe"]) in (1, 2)
    assert "Error: " in capsys.readouterr().err.split("error: ")[1]


def test_notes_of_an_error_are_told(command, capsys):
    """What a command knows beside a library's words would be seen in the traceback alone."""

    def fail(argv):
        error = ValueError("peft_config: is missing.")
        error.add_note("In a shell, it is --use-peft.")
        raise error

    command(fail)
    assert cli.main(["probe"]) == 2
    assert capsys.readouterr().err == "hf-ckt probe: error: peft_config: is missing. In a shell, it is --use-peft.\n"


def test_missing_file_is_named_before_the_reason(command, capsys, tmp_path):
    """The number of an error of the system is no help."""
    command(lambda argv: (tmp_path / "none.txt").read_text())
    assert cli.main(["probe"]) == 2
    assert capsys.readouterr().err == f"hf-ckt probe: error: {tmp_path / 'none.txt'}: No such file or directory\n"


def test_bitsandbytes_says_nothing_of_kernels(command, capsys, caplog):
    """The line stands before every command that loads a model, and asks for what nobody needs."""
    import logging

    def load(argv):
        logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
        logger.warning("Failed to load CPU gemm_4bit_forward from kernels-community: %s.", "none")
        logger.warning("something else")

    command(load)
    assert cli.main(["probe"]) == 0
    assert caplog.messages == ["something else"]


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
