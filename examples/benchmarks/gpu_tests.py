# SPDX-License-Identifier: Apache-2.0
"""The tests that need a GPU, with their outcome in a results file."""

import argparse
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from hf_ckt.cli.main import run_guarded

ROOT = Path(__file__).resolve().parents[2]

# Those that hold a test marked gpu: to import all others would take a minute of the card's time.
_TESTS = ["tests/gpu", "tests/kernels/test_tile_edges.py"]


def run(argv: list[str]) -> int:
    """Runs the tests, writes the results file, and returns pytest's exit code."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--tests", nargs="+", default=_TESTS, metavar="PATH", help=f"default {' '.join(_TESTS)}")
    parser.add_argument("--marker", default="gpu", help="what pytest selects by; default gpu; empty for all")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="the results file")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="hf_ckt_tests_") as folder:
        report = Path(folder) / "junit.xml"
        # A name a line, so that the log of a run that is ended tells how far it came.
        command = [
            sys.executable,
            "-m",
            "pytest",
            *options.tests,
            "-v",
            "-p",
            "no:cacheprovider",
            f"--junitxml={report}",
        ]
        command += ["-m", options.marker] if options.marker else []
        code = subprocess.run(command, cwd=ROOT).returncode
        if not report.exists():
            raise ValueError(f"pytest ended with {code} and wrote no report, so nothing is known of the tests.")
        counts = counted(report)

    # Afterwards: it imports torch, and needs a moment.
    from harness import results_document, write_results

    words = ["--tests", *options.tests] if options.tests != _TESTS else []
    words += ["--marker", options.marker or "''"] if options.marker != "gpu" else []
    words += ["--json", options.json.name if options.json else "FILE"]
    command_line = " ".join(["python examples/benchmarks/gpu_tests.py", *words])
    case = {"tests": " ".join(options.tests), "marker": options.marker}
    document = results_document("tests", command_line, case, {"tests": counts}, [])
    if options.json is not None:
        write_results(options.json, document)
    print({key: counts[key] for key in ("passed", "failed", "skipped")})
    return code


def counted(report: Path) -> dict[str, Any]:
    """
    Returns counts, seconds, the names that failed with their first line, and each test's seconds, from a junit file.

    Args:
        report (`Path`):
            What `pytest --junitxml` wrote.
    """
    counts: dict[str, Any] = {"passed": 0, "failed": 0, "skipped": 0, "seconds": 0.0, "failing": {}, "tests": {}}
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        name = f"{case.get('classname', '')}.{case.get('name', '')}"
        seconds = float(case.get("time") or 0)
        counts["seconds"] += seconds
        bad = next((child for child in case if child.tag in ("failure", "error")), None)
        if bad is not None:
            counts["failed"] += 1
            counts["failing"][name] = " ".join((bad.get("message") or "").split())[:300]
        elif case.find("skipped") is not None:
            counts["skipped"] += 1
        else:
            counts["passed"] += 1
            counts["tests"][name] = round(seconds, 2)
    return counts


if __name__ == "__main__":
    sys.exit(run_guarded("gpu_tests.py", lambda: run(sys.argv[1:])))
