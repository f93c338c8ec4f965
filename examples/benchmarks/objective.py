# SPDX-License-Identifier: Apache-2.0
"""Three token losses and their gradients: against every peer, and against the bare products."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from cases import DTYPES, GROWTH_CASE, OBJECTIVE_CASES, OBJECTIVE_VARIANTS
from hf_ckt.cli.main import run_guarded


def run(argv: list[str]) -> int:
    """Measures, prints the table and writes the results file; 1 if the variants do not agree."""
    variants = "\n".join(f"  {name:<14}{text}" for name, text in OBJECTIVE_VARIANTS.items())
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=f"variants:\n{variants}",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
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
    from measure_objective import run_objective

    base = GROWTH_CASE if options.growth else default
    given = {field: size for field in ("tokens", "hidden", "vocab") if (size := getattr(options, field)) is not None}
    return run_objective(
        replace(base, **given, dtype=options.dtype, device=options.device),
        variants=options.variants,
        repeats=options.repeats,
        growth=options.growth,
        json=options.json,
    )


if __name__ == "__main__":
    sys.exit(run_guarded("objective.py", lambda: run(sys.argv[1:])))
