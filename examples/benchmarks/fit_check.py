# SPDX-License-Identifier: Apache-2.0
"""The longest row that a card of so many gigabytes trains with all terms, found by running, beside `hf-ckt fit`'s."""

import argparse
import sys
from pathlib import Path

from hf_ckt.checks import require_count, require_known, require_positive
from hf_ckt.cli.main import run_guarded
from hf_ckt.fit.shapes import SHAPES

_PRECISIONS = ("bf16", "nf4")


def run(argv: list[str]) -> int:
    """Measures, prints one line a trial, and writes the results file."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--model", default="random-8b", help=f"{', '.join(f'random-{n}' for n in SHAPES)}")
    parser.add_argument("--layers", type=int, default=None, help="as many layers instead of its own")
    parser.add_argument("--shrink", type=int, default=1, help="its widths and vocabulary divided by this")
    parser.add_argument("--precision", default="nf4", help=f"of the backbone: {' or '.join(_PRECISIONS)}")
    parser.add_argument("--recompute", action="store_true", help="noisy_view_recompute=True")
    parser.add_argument("--memory-gb", type=float, default=24.0, help="memory of the card, in 10^9 bytes")
    parser.add_argument("--trials", type=int, default=9, help="training steps at most, after one to warm up")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="the results file")
    options = parser.parse_args(argv)
    require_known("--model", options.model, [f"random-{name}" for name in SHAPES])
    require_known("--precision", options.precision, _PRECISIONS)
    require_positive("--memory-gb", options.memory_gb, "Nothing fits into no memory.")
    require_count("--trials", options.trials, 1, "Nothing would be measured.")
    require_count("--shrink", options.shrink, 1, "A width has at least one entry.")

    # After the parsing: these import torch.
    from cases import StepCase
    from harness import results_document, write_results
    from measure_fit import measure_longest

    case = StepCase(options.model, 1, 2048, options.precision, True, layers=options.layers, shrink=options.shrink)
    measured = measure_longest(case, options.memory_gb * 1e9, options.trials, options.recompute)
    settings = {name: value for name, value in vars(options).items() if name != "json"}
    words = [f"--{name.replace('_', '-')} {value}" for name, value in settings.items() if type(value) in (str, int)]
    words += [f"--memory-gb {options.memory_gb:g}", *["--recompute"] * options.recompute]
    command = f"python examples/benchmarks/fit_check.py {' '.join(words)} --json "
    command += options.json.name if options.json else "FILE"
    name = f"{options.model}_{options.precision}{'_recomputed' if options.recompute else ''}"
    document = results_document("fit_check", command, settings, {name: measured}, [])
    if options.json is not None:
        write_results(options.json, document)
    print(
        f"{name}: {measured['measured_tokens']:,} tokens fit, {measured['predicted_tokens']:,} were predicted "
        f"(ratio {measured['ratio']:.3f})"
    )
    return 0


if __name__ == "__main__":
    sys.exit(run_guarded("fit_check.py", lambda: run(sys.argv[1:])))
