# SPDX-License-Identifier: Apache-2.0
"""
Runs everything that needs a GPU, in order of value, until the minutes are used up.

Each job writes its own results file the moment it ends. Stopped at any moment, the same command goes on with what is
not done yet with this code on this device. It needs no network, and no installed hf_ckt: the clone's own is run.
"""

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # also where the package is not installed

from bundle import is_for_this_python, prepare
from gpu_jobs import Job, gpu_jobs, rehearsal_jobs
from gpu_runner import DONE, Outcome, StateFile, run_jobs
from hf_ckt.checks import require_known, require_positive
from hf_ckt.cli.main import run_guarded
from tables import as_text

_MINUTES, _REHEARSAL_MINUTES = 12.0, 10.0
_PROBE = """
import json
import torch
from hf_ckt.hub.provenance import machine_facts
from hf_ckt.models.embedded import find_gguf
facts = machine_facts()
print(json.dumps({"device": facts["device"], "commit": facts["commit"], "versions": facts["versions"],
                  "cuda": torch.cuda.is_available(), "gguf": find_gguf() is not None}))
"""
_TINY_MODEL = """
import sys
from pathlib import Path
from tests.tiny_models import save_tiny_llama
save_tiny_llama(Path(sys.argv[1]), hidden_size=64)
"""


def run(argv: list[str]) -> int:
    """Runs the jobs and prints a table; 1 when one failed or was left."""
    start = time.monotonic()  # the minutes are those of the whole command: unpacking and looking at the device count
    options = _parser().parse_args(argv)
    require_positive("--minutes", options.minutes, "No job would fit.")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exit that ends the jobs too
    if not options.rehearse:
        return _run(options, options.out, options.results, start)
    if options.model is not None:
        raise ValueError(
            "--model: a rehearsal takes a tiny model of its own, so this one would not be run. Leave it out."
        )
    scratch = Path(tempfile.mkdtemp(prefix="hf_ckt_gpu_"))
    try:
        code = _run(options, scratch, scratch / "results", start)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    if code:
        print(f"{scratch} holds the logs.")
    else:
        shutil.rmtree(scratch)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    listed = [job.name for job in gpu_jobs(Path(), Path())]
    parser.add_argument("--minutes", type=float, default=_MINUTES, help=f"time for all; default {_MINUTES:g}")
    parser.add_argument("--only", nargs="+", default=listed, metavar="NAME", help=f"of {', '.join(listed)}")
    parser.add_argument(
        "--bundle",
        type=Path,
        default=None,
        metavar="FOLDER",
        help="wheels and model for a machine without network, made by bundle.py; default .gpu_bundle, where there is "
        "one for this Python",
    )
    parser.add_argument("--model", default=None, metavar="FOLDER", help="a model to take in place of SmolLM2")
    parser.add_argument(
        "--results",
        type=Path,
        default=ROOT / "examples" / "benchmarks" / "results",
        metavar="FOLDER",
        help="for the results files; default results/ beside this script",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=ROOT / "out" / "gpu",
        metavar="FOLDER",
        help="for logs, and jobs.json, which says what is done; default out/gpu",
    )
    parser.add_argument("--restart", action="store_true", help="do again what is done")
    parser.add_argument(
        "--rehearse", action="store_true", help="all jobs in a tiny size on a CPU, into a folder that is removed"
    )
    return parser


def _run(options: argparse.Namespace, out: Path, results: Path, start: float) -> int:
    out, results = out.resolve(), results.resolve()
    work = out / "work"
    environment = job_environment(options.bundle or _found_bundle(ROOT / ".gpu_bundle"), out / "bundle")
    if options.rehearse:
        environment["CUDA_VISIBLE_DEVICES"] = ""
        folder = work / "tiny_model"
        _python(environment, _TINY_MODEL, str(folder))
        jobs = rehearsal_jobs(results, work, str(folder))
        # Its jobs are slower in each other's company, and there is nothing else to wait for.
        minutes = options.minutes if options.minutes != _MINUTES else _REHEARSAL_MINUTES
    else:
        jobs, minutes = gpu_jobs(results, work, options.model), options.minutes
    for name in options.only:
        require_known("--only", name, [job.name for job in jobs])
    jobs = [job for job in jobs if job.name in options.only]
    machine = json.loads(_python(environment, _PROBE).splitlines()[-1])
    if not machine["cuda"] and not options.rehearse:
        raise ValueError(
            "gpu.py: torch sees no GPU, so no job could run. Start it on a machine with one, or add --rehearse for a "
            "rehearsal on the CPU."
        )
    if options.restart:
        (out / "jobs.json").unlink(missing_ok=True)
    state = StateFile(out / "jobs.json", sources_digest(), machine["device"])
    if not state.jobs and not options.rehearse:
        shutil.rmtree(work, ignore_errors=True)  # what other code, or another device, had begun
    missing = {}
    if not machine["gguf"] and not options.rehearse and options.model is None:
        why = "needs SmolLM2, of which there is neither a GGUF file (HF_CKT_SMOLLM2_GGUF) nor the wheel"
        missing = {job.name: why for job in jobs if job.needs_smollm2}
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    _say(f"{machine['device']}; {versions}; {minutes:g} minutes for {len(jobs)} jobs, logs in {out / 'logs'}")
    outcomes = run_jobs(
        jobs,
        seconds=60 * minutes - (time.monotonic() - start),
        state=state,
        logs=out / "logs",
        environment=environment,
        say=_say,
        missing=missing,
    )
    print(f"\n{report(jobs, outcomes)}")
    if not options.rehearse and any(one.state == DONE for one in outcomes.values()):
        print(
            "\nThe page from these results: python examples/benchmarks/plot.py FILES; python examples/benchmarks/page.py"
        )
    return 0 if all(one.state == DONE for one in outcomes.values()) else 1


def report(jobs: list[Job], outcomes: dict[str, Outcome]) -> str:
    """Returns a row a job, and below why others are not done, with their commands."""
    rows = [["job", "", "seconds", "estimate", ""]]
    open_jobs = []
    for job in jobs:
        one = outcomes[job.name]
        seconds = f"{one.seconds:.0f}" if one.seconds else ""
        note = "by an earlier run" if one.earlier else ""
        rows.append([job.name, one.state, seconds, f"{job.estimate_s:.0f}", note])
        if one.state != DONE:
            open_jobs += [f"  {job.name}: {one.why}", f"    {job.command}"]
    text = as_text(rows)
    return text if not open_jobs else "\n".join([text, "", "Not done, with the reason and the command:", *open_jobs])


def _found_bundle(folder: Path) -> Path | None:
    if not folder.is_dir():
        return None
    if not is_for_this_python(folder):
        _say(f"{folder.name} is left alone: its wheels are for another Python than this one")
        return None
    return folder


def job_environment(bundle: Path | None, work: Path) -> dict[str, str]:
    """
    Returns the variables of the jobs: the clone's package first, then what a bundle brings.

    Args:
        bundle (`Path`, *optional*):
            Of `bundle.py`; without one, the jobs run with what is installed.
        work (`Path`):
            Folder for what is unpacked.
    """
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONUNBUFFERED": "1"}
    environment["HF_CKT_TRACEBACK"] = "1"  # a job's log is all that comes back of it
    if bundle is not None:
        environment |= prepare(bundle, work)
    paths = [str(ROOT), *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    environment["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    return environment


def sources_digest() -> str:
    """Returns a digest of all Python files: what is done with other code is not done."""
    digest = hashlib.sha256()
    for folder in ("hf_ckt", "examples", "tests"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _python(environment: dict[str, str], code: str, *arguments: str) -> str:
    done: Any = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise ValueError(
            f"gpu.py: {sys.executable} cannot run the jobs: {reason}. Install hf_ckt's dependencies, or name a --bundle."
        )
    return done.stdout


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(run_guarded("gpu.py", lambda: run(sys.argv[1:])))
