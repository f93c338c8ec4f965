# SPDX-License-Identifier: Apache-2.0
"""Measure time and memory of the objective and of whole steps; draw and write pages from the results."""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ..bench.cases import DTYPES, GROWTH_CASE, OBJECTIVE_CASES, OBJECTIVE_VARIANTS
from ..checks import nearest

_RESULTS = Path("examples/benchmarks/results")
_PAGE = Path("examples/benchmarks/README.md")


def run(argv: list[str]) -> int:
    """Runs one benchmark, or draws or writes from results files."""
    if not argv or argv[0] in ("-h", "--help"):
        print(_help())
        return 0
    name, rest = argv[0], argv[1:]
    if name not in _COMMANDS:
        raise ValueError(f"unknown benchmark {name!r}.{nearest(name, _COMMANDS)} Known: {', '.join(_COMMANDS)}.")
    return _COMMANDS[name](rest)


def _help() -> str:
    width = max(map(len, _COMMANDS)) + 2
    summaries = (f"  {name:<{width}}{command.__doc__}" for name, command in _COMMANDS.items())
    return "\n".join(
        ["usage: hf-ckt bench <command> ...", "", *summaries, "", "`hf-ckt bench <command> --help` says more."]
    )


def _parser(name: str, description: str | None, epilog: str | None = None) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=f"hf-ckt bench {name}",
        description=description,
        epilog=epilog,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _objective(argv: list[str]) -> int:
    """Three token losses and their gradients: against every peer, and against the bare products."""
    variants = "\n".join(f"  {name:<14}{text}" for name, text in OBJECTIVE_VARIANTS.items())
    parser = _parser("objective", _objective.__doc__, f"variants:\n{variants}")
    default = OBJECTIVE_CASES["objective_smollm2"]
    for field, letter in (("tokens", "N"), ("hidden", "D"), ("vocab", "V")):
        parser.add_argument(
            f"--{field}",
            type=int,
            metavar=letter,
            help=f"default {getattr(default, field)}, with --growth {getattr(GROWTH_CASE, field)}",
        )
    parser.add_argument("--dtype", choices=DTYPES, default=default.dtype, help=f"default {default.dtype}")
    parser.add_argument("--device", default=default.device, help=f"cpu or cuda; default {default.device}")
    parser.add_argument("--repeats", type=int, default=7, metavar="K", help="rounds of timing; default 7")
    parser.add_argument(
        "--growth",
        action="store_true",
        help="instead of all variants at one size: how time and memory of hf_ckt and dense grow with N, V and D",
    )
    parser.add_argument(
        "--variants",
        nargs="+",
        metavar="NAME",
        default=list(OBJECTIVE_VARIANTS),
        help="default all; what cannot run here is recorded as skipped",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results")
    options = parser.parse_args(argv)

    # After the parsing: it imports torch.
    from ..bench.objective import run_objective

    base = GROWTH_CASE if options.growth else default
    given = {field: size for field in ("tokens", "hidden", "vocab") if (size := getattr(options, field)) is not None}
    return run_objective(
        replace(base, **given, dtype=options.dtype, device=options.device),
        variants=options.variants,
        repeats=options.repeats,
        growth=options.growth,
        json=options.json,
    )


def _step(argv: list[str]) -> int:
    """Whole training steps against TRL's trainers: time and peak memory of a process each."""
    from ..bench.step import run

    return run(argv)


def _fit(argv: list[str]) -> int:
    """The largest model and sequence that fit a memory, by calculation."""
    from ..bench.fit import run

    return run(argv)


def _plot(argv: list[str]) -> int:
    """Draw results files as PNG and SVG."""
    parser = _parser("plot", _plot.__doc__)
    parser.add_argument("results", nargs="+", type=Path, metavar="FILE", help="results files")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where to; default beside each file")
    options = parser.parse_args(argv)

    from ..bench.plot import plot_file

    for path in options.results:
        for drawn in plot_file(path, options.out or path.parent):
            print(drawn)
    return 0


def _page(argv: list[str]) -> int:
    """Write the tables of the benchmarks' page from results files."""
    parser = _parser("page", _page.__doc__, "Between <!-- bench:NAME --> and <!-- /bench:NAME --> goes NAME.json.")
    parser.add_argument("--page", type=Path, default=_PAGE, metavar="FILE", help=f"default {_PAGE}")
    parser.add_argument("--results", type=Path, default=_RESULTS, metavar="FOLDER", help=f"default {_RESULTS}")
    options = parser.parse_args(argv)

    from ..bench.page import write_page

    write_page(options.page, options.results)
    print(options.page)
    return 0


_COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "objective": _objective,
    "step": _step,
    "fit": _fit,
    "plot": _plot,
    "page": _page,
}
