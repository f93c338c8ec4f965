# SPDX-License-Identifier: Apache-2.0
"""
Finds the command, runs it, and turns errors into one line.

A command is a file of this folder: its name with hyphens is the command, the first line of its docstring the help, and
`run(argv) -> int | None` does the work. Files are only read for the help, not imported, so it needs no torch.
"""

import ast
import dis
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from .. import __version__
from ..checks import nearest
from ..hub.client_errors import is_of_the_hub

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
            "error came from beside its message.",
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
        `int`: The exit code: 0 for success, 2 for wrong input, 1 for what was not foreseen, 130 when interrupted.
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

    name, rest = arguments[0].replace("_", "-"), arguments[1:]
    commands = command_files()
    if name not in commands:
        return _fail("hf-ckt", f"unknown command {name!r}.{nearest(name, commands)} Known: {', '.join(commands)}.")
    return run_guarded(f"hf-ckt {name}", lambda: _load(commands[name])(rest), with_traceback=with_traceback)


def run_guarded(program: str, call: Callable[[], int | None], *, with_traceback: bool = False) -> int:
    """
    Calls a program's work and turns what can go wrong into one line and an exit code.

    Args:
        program (`str`):
            What the line begins with.
        call (`Callable`):
            Does the work; returns an exit code, or None for 0.
        with_traceback (`bool`, *optional*, defaults to `False`):
            Print the traceback too. Always so where HF_CKT_TRACEBACK is set.

    Returns:
        `int`: The exit code: that of the call, 2 for wrong input or a missing extra, 1 for what was not foreseen, 130 when
            interrupted.
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
    except Exception as error:
        if with_traceback or os.environ.get("HF_CKT_TRACEBACK", "0") not in ("", "0"):
            traceback.print_exc()
        # Of an ImportError, our own word is that a package of an extra is missing.
        foreseen = isinstance(error, (ValueError, TypeError, OSError)) or _is_missing_extra(error)
        code = 2 if foreseen else 1
        return _fail(program, " ".join([_sentence(error), *getattr(error, "__notes__", ())]), code)


def _sentence(error: Exception) -> str:
    """What is said of an error: its own sentence where it was written for this, else also what and where it is."""
    if isinstance(error, (ValueError, TypeError, OSError)) and str(error) and _is_raised_by_us(error):
        return str(error)
    if _is_missing_extra(error):
        return str(error)
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    if is_of_the_hub(error):
        endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
        return (
            f"the Hub at {endpoint} could not be used ({type(error).__name__}: {error}). Check the network, HF_ENDPOINT, "
            "HF_HUB_OFFLINE, the name and its spelling, and the token (`hf auth login`); files of this machine need no Hub"
        )
    frame = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{'/'.join(Path(frame.filename).parts[-2:])}, line {frame.lineno}"
    message = f": {error}" if str(error) else ""
    return (
        f"{type(error).__name__}{message} (raised in {where}; --traceback or HF_CKT_TRACEBACK=1 shows the way there)"
    )


def _is_missing_extra(error: Exception) -> bool:
    return isinstance(error, ImportError) and _is_raised_by_us(error)


def _is_raised_by_us(error: Exception) -> bool:
    """Whether the error is a `raise` of this package or program: the words of others do not know the command's input."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is None:
        return True
    code = last.tb_frame.f_code
    file = Path(code.co_filename)
    others = "site-packages" in file.parts or Path(os.__file__).parent in file.parents
    if others and Path(__file__).parents[1] not in file.parents:
        return False
    # A slip such as None + 1 is an error without a `raise`.
    return code.co_code[last.tb_lasti] == dis.opmap["RAISE_VARARGS"]


def _fail(program: str, message: str, code: int = 2) -> int:
    print(f"{program}: error: {' '.join(message.split())}", file=sys.stderr)
    return code


if __name__ == "__main__":  # accelerate launch -m hf_ckt.cli.main train --config run.yaml
    sys.exit(main())
