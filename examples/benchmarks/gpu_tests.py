# SPDX-License-Identifier: Apache-2.0
"""The tests that need a GPU, with their outcome in a results file, also where the time ends before the tests do."""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from child_process import end_with_parent
from hf_ckt.checkpoints import replace_json
from hf_ckt.cli.main import run_guarded

ROOT = Path(__file__).resolve().parents[2]

# Those that hold a test marked gpu: to import all others would take a minute of the card's time.
_TESTS = ["tests/gpu", "tests/kernels/test_tile_edges.py"]


class Outcomes:
    """
    A pytest plugin that writes what came of each test to a file as soon as it is known.

    Args:
        path (`Path`):
            The file; written aside and renamed.
    """

    def __init__(self, path: Path):
        self.path = path
        self.found: dict[str, Any] = {"failing": {}, "skipped": [], "seconds": {}, "complete": False}

    def pytest_runtest_logreport(self, report: Any) -> None:
        """One phase of one test: setup, call or teardown. Skips and failures may come of any."""
        if report.failed:
            self._fail(report)
        elif report.skipped:
            self.found["skipped"].append(report.nodeid)
        elif report.when == "call":
            self.found["seconds"][report.nodeid] = round(report.duration, 2)
        replace_json(self.path, self.found)

    def pytest_collectreport(self, report: Any) -> None:
        """A file that cannot be imported holds tests that never ran."""
        if report.failed:
            self._fail(report)
            replace_json(self.path, self.found)

    def pytest_sessionfinish(self) -> None:
        """All that was collected has run."""
        self.found["complete"] = True
        replace_json(self.path, self.found)

    def _fail(self, report: Any) -> None:
        crash = getattr(report.longrepr, "reprcrash", None)
        self.found["failing"][report.nodeid] = " ".join(str(crash.message if crash else report.longrepr).split())[:300]
        self.found["seconds"].pop(report.nodeid, None)


_PYTEST = f"""
import sys
from pathlib import Path
import pytest
sys.path.insert(0, {str(Path(__file__).parent)!r})
from gpu_tests import Outcomes
sys.exit(pytest.main(sys.argv[2:], plugins=[Outcomes(Path(sys.argv[1]))]))
"""


def run(argv: list[str]) -> int:
    """Runs the tests, writes the results file, and returns pytest's exit code."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--tests", nargs="+", default=_TESTS, metavar="PATH", help=f"default {' '.join(_TESTS)}")
    parser.add_argument("--marker", default="gpu", help="what pytest selects by; default gpu; empty for all")
    parser.add_argument("--workers", type=int, default=4, help="processes side by side; default 4")
    parser.add_argument(
        "--seconds", type=float, default=160, help="after so many, what has not run is left; default %(default)g"
    )
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="the results file")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="hf_ckt_tests_") as folder:
        report = Path(folder) / "outcomes.json"
        # A name a line, so that the log of a run that is ended tells how far it came.
        arguments = [*options.tests, "-v", "-p", "no:cacheprovider", "--continue-on-collection-errors"]
        arguments += ["-n", str(options.workers), "--dist", "loadfile"]
        arguments += ["-m", options.marker] if options.marker else []
        tests = subprocess.Popen(
            [sys.executable, "-c", _PYTEST, str(report), *arguments], cwd=ROOT, preexec_fn=end_with_parent
        )
        try:
            code = tests.wait(options.seconds)
        except subprocess.TimeoutExpired:
            tests.kill()
            code = tests.wait()
        if not report.exists():
            raise ValueError(f"pytest ended with {code} before any test did, so nothing is known of them.")
        counts = counted(json.loads(report.read_text(encoding="utf-8")))

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
    print({key: counts[key] for key in ("complete", "passed", "failed", "skipped")})
    return code


def counted(found: dict[str, Any]) -> dict[str, Any]:
    """
    Returns counts, seconds, the names that failed with their first line, and the seconds of each test that passed.

    Args:
        found (`dict`):
            Of [`Outcomes`].
    """
    return {
        "complete": found["complete"],
        "passed": len(found["seconds"]),
        "failed": len(found["failing"]),
        "skipped": len(found["skipped"]),
        "seconds": round(sum(found["seconds"].values()), 2),
        "failing": found["failing"],
        "tests": found["seconds"],
    }


if __name__ == "__main__":
    sys.exit(run_guarded("gpu_tests.py", lambda: run(sys.argv[1:])))
