# SPDX-License-Identifier: Apache-2.0
"""One training step under torch's profiler: the longest kernels, where the host waits, and memory over time."""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from cases import STEP_VARIANTS
from hf_ckt.checks import require_count, require_known
from hf_ckt.cli.main import run_guarded
from step import add_case_options, case_of, model_path


def run(argv: list[str]) -> int:
    """Measures, prints where the time went, and writes the results file."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    add_case_options(parser)
    parser.add_argument("--variant", default="hf_ckt_all", metavar="NAME", help="as step.py's; default hf_ckt_all")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=None, help="objective_compile")
    parser.add_argument("--warmup", type=int, default=2, help="steps before")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="the results file")
    options = parser.parse_args(argv)
    case = case_of(options)
    require_known("--variant", options.variant, STEP_VARIANTS)
    require_count("--warmup", options.warmup, 1, "What is done once in a process would be measured.")

    # After the parsing: these import torch.
    from harness import command_line, results_document, write_results
    from measure_profile import profile_step

    job = {"variant": options.variant, "case": asdict(case), "path": model_path(case), "compile": options.compile}
    measured = profile_step(job, options.warmup)
    command = command_line("profile_step.py", argv)
    document = results_document(
        "profile", command, {**asdict(case), "variant": options.variant}, {options.variant: measured}, []
    )
    if options.json is not None:
        write_results(options.json, document)
    print(json.dumps({"phases": measured["phases"], "waits": measured["waits"]}, indent=1))
    for row in measured["kernels"][:5]:
        print(f"{row['share']:6.1%}  {row['calls']:6}  {row['name'][:90]}")
    return 0


if __name__ == "__main__":
    sys.exit(run_guarded("profile_step.py", lambda: run(sys.argv[1:])))
