# SPDX-License-Identifier: Apache-2.0
"""The demo, `hf-ckt demo`, from end to end, with its results in a results file; other options are passed on."""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from child_process import end_with_parent
from hf_ckt.cli.main import run_guarded


def run(argv: list[str]) -> int:
    """Runs the demo and writes the results file; its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--output_dir", type=Path, default=Path("out/quickstart"), help="the demo's own folder")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="the results file")
    options, passed_on = parser.parse_known_args(argv)
    start = time.perf_counter()
    demo = [sys.executable, "-m", "hf_ckt.cli.main", "demo", "--output_dir", str(options.output_dir)]
    code = subprocess.run([*demo, *passed_on], preexec_fn=end_with_parent).returncode
    if code:
        return code
    seconds = time.perf_counter() - start
    results = json.loads((options.output_dir / "results.json").read_text(encoding="utf-8"))

    from harness import results_document, write_results

    name = options.json.name if options.json else "FILE"
    command = " ".join(["python examples/benchmarks/demo.py", *passed_on, "--json", name])
    case = {"seconds": round(seconds, 1), **results["settings"], "resumed": results["resumed"]}
    document = results_document("demo", command, case, {}, [], quickstart=results)
    if options.json is not None:
        write_results(options.json, document)
    return 0


if __name__ == "__main__":
    sys.exit(run_guarded("demo.py", lambda: run(sys.argv[1:])))
