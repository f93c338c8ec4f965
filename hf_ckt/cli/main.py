# SPDX-License-Identifier: Apache-2.0
"""
Finds the command, runs it, and turns errors of input into one line.

A command is a file of this folder: its name with hyphens is the command, the first line of its docstring the help, and
`run(argv) -> int | None` does the work. Files are only read for the help, not imported, so it needs no torch.
"""

import ast
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from .. import __version__
from ..checks import nearest

_NOT_COMMANDS = ("__init__", "main")


def command_files() -> dict[str, Path]:
    """Returns the commands by name, in alphabetical order, with the file that holds each."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return {path.stem.replace("_", "-"): path for path in files if path.stem not in _NOT_COMMANDS}


def _summary(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.strip().split("\n")[0]


def _help() -> str:
    commands = command_files()
    width = max(map(len, commands)) + 2
    return "\n".join(
        [
            "usage: hf-ckt [--help] [--version] [--traceback] <command> ...",
            "",
            "commands:",
            *(f"  {name:<{width}}{_summary(path)}" for name, path in commands.items()),
            "",
            "`hf-ckt <command> --help` lists a command's options. `--traceback`, or HF_CKT_TRACEBACK=1, shows where an",
            "error of input came from instead of its message alone.",
        ]
    )


def _load(path: Path) -> Callable[[list[str]], int | None]:
    return importlib.import_module(f".{path.stem}", package=__package__).run


def main(argv: Sequence[str] | None = None) -> int:
    """
    Runs one command.

    Args:
        argv (`Sequence[str]`, *optional*):
            Arguments without the program's name. Taken from the shell when left out.

    Returns:
        `int`: The exit code: 0 for success, 2 for wrong input, 130 when interrupted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    with_traceback = "--traceback" in arguments
    arguments = [argument for argument in arguments if argument != "--traceback"]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if arguments[0] in ("-V", "--version"):
        print(f"hf-ckt {__version__}")
        return 0

    name, rest = arguments[0], arguments[1:]
    commands = command_files()
    if name not in commands:
        return _fail("hf-ckt", f"unknown command {name!r}.{nearest(name, commands)} Known: {', '.join(commands)}.")
    return run_guarded(f"hf-ckt {name}", lambda: _load(commands[name])(rest), with_traceback=with_traceback)


def run_guarded(program: str, call: Callable[[], int | None], *, with_traceback: bool = False) -> int:
    """
    Calls a program's work and turns what can go wrong with its input into one line and an exit code.

    Args:
        program (`str`):
            What the line begins with.
        call (`Callable`):
            Does the work; returns an exit code, or None for 0.
        with_traceback (`bool`, *optional*, defaults to `False`):
            Print the traceback too. Always so where HF_CKT_TRACEBACK is set.

    Returns:
        `int`: The exit code: that of the call, 2 for wrong input, 130 when interrupted.
    """
    try:
        return call() or 0
    except KeyboardInterrupt:
        print(f"\n{program}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader, `head` say, has what it wanted. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, TypeError, OSError) as error:
        if with_traceback or os.environ.get("HF_CKT_TRACEBACK", "0") not in ("", "0"):
            traceback.print_exc()
        return _fail(program, str(error) or type(error).__name__)


def _fail(program: str, message: str) -> int:
    print(f"{program}: error: {' '.join(message.split())}", file=sys.stderr)
    return 2


if __name__ == "__main__":  # accelerate launch -m hf_ckt.cli.main train --config run.yaml
    sys.exit(main())
