# SPDX-License-Identifier: Apache-2.0
"""
Runs commands in a terminal of its own and keeps what it shows at the end as text.

    python .ci/record_terminal.py examples/results/terminal/demo.txt "make demo"

Lines that are drawn over, as progress bars are, are kept as they were last; colours are not. A recording names neither
this machine nor its user: the kernel's release is left out, and one with a path, a host or a user's name in it is refused
and kept in .cache/terminal, to be looked at. So is one of a command that fails.
"""

import argparse
import fcntl
import getpass
import os
import platform
import pty
import re
import shlex
import socket
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COLUMNS, ROWS = 118, 50
# Escape sequences: of a cursor or colour, of a title, of two characters.
_ESCAPE = re.compile(r"\x1b(?:\[([0-9;?]*)([@-~])|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\^_=>78]|[()][A-Z0-9])")
# A path from the root, of what lies on machines; an address of the net; a host.
_PATH = re.compile(
    r"(?<![\w./~-])/(?:bin|data|dev|etc|home|lib|media|mnt|opt|private|proc|root|srv|sys|tmp|Users|usr|var|work)\b"
)
_WINDOWS_PATH = re.compile(r"\b[A-Za-z]:\\")
_ADDRESS = re.compile(r"\b(?!127\.0\.0\.1\b)\d{1,3}(?:\.\d{1,3}){3}\b")
_URL = re.compile(r"https?://(?:[^/\s@]*@)?([\w.-]+)")
PUBLIC = {"127.0.0.1", "localhost", "huggingface.co", "github.com", "arxiv.org", "doi.org", "aclanthology.org"}


def shown(text: str) -> str:
    """What a terminal without an end shows of a text: of lines drawn over, the last."""
    lines: list[list[str]] = [[]]
    row = column = at = 0
    while at < len(text):
        if escape := _ESCAPE.match(text, at):
            at = escape.end()
            count = int(escape[1]) if (escape[1] or "").isdigit() else 0
            match escape[2]:
                case "A":
                    row = max(row - max(count, 1), 0)
                case "B":
                    row += max(count, 1)
                case "C":
                    column += max(count, 1)
                case "D":
                    column = max(column - max(count, 1), 0)
                case "G":
                    column = max(count, 1) - 1
                case "K":
                    start, end = {0: (column, None), 1: (0, column + 1), 2: (0, None)}[count]
                    line = lines[row]
                    line[start:end] = [" "] * len(line[start:end])
                case "J" if count == 0:
                    lines[row][column:] = []
                    del lines[row + 1 :]
        else:
            sign, at = text[at], at + 1
            if sign == "\n":
                row += 1
            elif sign == "\r":
                column = 0
            elif sign == "\b":
                column = max(column - 1, 0)
            elif sign >= " ":
                lines[row].extend(" " * (column + 1 - len(lines[row])))
                lines[row][column] = sign
                column += 1
        lines.extend([] for _ in range(row + 1 - len(lines)))
    return "\n".join("".join(line).rstrip() for line in lines).strip("\n")


def names_of_this_machine() -> dict[str, str]:
    """What a recording must not hold, by what it is."""
    found = {"the user's name": getpass.getuser(), "this machine's name": socket.gethostname()}
    found |= {"the home folder": str(Path.home()), "this folder": str(ROOT), "the environment": sys.prefix}
    # A word that texts have of their own names nobody.
    return {what: name for what, name in found.items() if len(name) > 2 and name not in ("root", "user", "localhost")}


def left_in(text: str) -> list[str]:
    """Lines of a recording that name a machine, each with the reason."""
    found = []
    names = names_of_this_machine()
    for line in text.splitlines():
        reasons = [what for what, name in names.items() if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", line)]
        reasons += ["a path"] if _PATH.search(line) or _WINDOWS_PATH.search(line) else []
        reasons += ["an address"] if _ADDRESS.search(line) else []
        reasons += ["a host"] if {*_URL.findall(line)} - PUBLIC else []
        found += [f"{', '.join(reasons)}: {line}"] if reasons else []
    return found


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # how Linux says that the other end is closed
        return b""


def run(command: str) -> tuple[int, str, float]:
    """Runs a command in a terminal, shows what it says as it comes, and returns its status, its text and the seconds."""
    began = time.monotonic()
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    # The width counts where a program asks for no terminal; the search path is that of the page's reader.
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(COLUMNS), "LINES": str(ROWS)}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    started = subprocess.Popen(
        shlex.split(command), stdin=its, stdout=its, stderr=its, env=environment, start_new_session=True
    )
    os.close(its)
    parts = []
    try:
        while part := _read(ours):
            parts.append(part)
            sys.stdout.buffer.write(part)
            sys.stdout.flush()
    except BaseException:
        started.terminate()
        raise
    finally:
        os.close(ours)
    return started.wait(), b"".join(parts).decode("utf-8", errors="replace"), time.monotonic() - began


def recording(command: str, text: str, status: int, seconds: float) -> str:
    """One command of a recording, as it is kept."""
    text = shown(text).replace(platform.release(), "[kernel]")
    return f"$ {command}\n{text}\n\n[status {status} after {seconds:.0f} s]\n"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="the recording")
    parser.add_argument("command", nargs="+", help="each in quotes")
    options = parser.parse_args(argv)
    parts, failed = [], 0
    for command in options.command:
        status, text, seconds = run(command)
        parts.append(recording(command, text, status, seconds))
        if status:
            print(f"{command}: ended with status {status}", file=sys.stderr)
            failed = 1
            break
    text = "\n".join(parts)
    found = left_in(text)
    for line in found:
        print(f"not kept, {line}", file=sys.stderr)
    file = ROOT / ".cache" / "terminal" / options.file.name if found or failed else options.file
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    print(file.relative_to(ROOT) if file.is_relative_to(ROOT) else file)
    return int(bool(found or failed))


if __name__ == "__main__":
    sys.exit(main())
