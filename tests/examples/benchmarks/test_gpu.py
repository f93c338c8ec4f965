# SPDX-License-Identifier: Apache-2.0
"""`python examples/benchmarks/gpu.py`: its list of jobs, and a rehearsal."""

import argparse
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import gpu
import gpu_jobs
from gpu_jobs import ROOT, rehearsal_jobs
from gpu_jobs import gpu_jobs as listed_jobs
from hf_ckt.cli.main import run_guarded
from page import _MARKER

BENCHMARKS = ROOT / "examples" / "benchmarks"
NAMES = [job.name for job in listed_jobs(Path(), Path())]


def run(*arguments):
    """The script with these arguments, errors of input as one line."""
    return run_guarded("gpu.py", lambda: gpu.run([*arguments]))


def test_jobs_fill_every_row_that_is_not_measured():
    """A row that no job fills says 'not measured' after the minutes are spent."""
    page = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
    open_rows = {name for name in _MARKER.findall(page) if f"<!-- bench:{name} -->\nNot measured." in page}
    assert open_rows <= {*NAMES}
    assert {*NAMES} <= {*_MARKER.findall(page)}


def test_jobs_write_over_no_results_of_a_cpu():
    """The ratios of a CPU would be gone, and the page would show a card's under their name."""
    for name in NAMES:
        path = BENCHMARKS / "results" / f"{name}.json"
        if path.exists():
            assert not json.loads(path.read_text(encoding="utf-8"))["facts"]["device"].endswith("threads"), name


class ParsedError(BaseException):
    """The command line was understood. No `Exception`, which a program turns into one line."""


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("make", [listed_jobs, rehearsal_jobs], ids=["real", "rehearsed"])
def test_words_of_a_job_are_understood_by_its_script(name, make, monkeypatch, tmp_path):
    """A misspelt option costs a start of the machine."""
    parse = argparse.ArgumentParser.parse_known_args

    def parsed(parser, args=None, namespace=None):
        _, unknown = parse(parser, args, namespace)
        # The demo passes what it does not know on to the command.
        assert not unknown or name == "demo_cuda", unknown
        raise ParsedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", parsed)
    (job,) = [one for one in make(tmp_path, tmp_path, "a/model") if one.name == name]
    monkeypatch.setattr(sys, "argv", list(job.words[1:]))
    with pytest.raises(ParsedError):
        runpy.run_path(str(ROOT / job.words[1]), run_name="__main__")
    assert job.words[0] == sys.executable and str(tmp_path / f"{name}.json") in job.words
    assert job.command.startswith("python examples/benchmarks/")
    assert 0 < job.estimate_s < job.limit_s


def test_real_jobs_fit_the_minutes_of_a_rehearsed_machine():
    """A list that cannot be finished in fifteen minutes leaves its end unmeasured every time."""
    seconds, first = 0.0, None
    for job in listed_jobs(Path(), Path()):
        # One that should end before the first in line runs beside it.
        if job.shares and first is not None and job.estimate_s <= first.estimate_s:
            continue
        seconds += job.estimate_s
        first = job if job.shares else None
    assert seconds <= 15 * 60


def test_model_stands_in_for_smollm2():
    """A machine with another copy of the model would be told that it has none."""
    jobs = {job.name: job for job in listed_jobs(Path(), Path(), "a/folder")}
    assert "smollm2" not in jobs["step_bf16"].words and "a/folder" in jobs["step_bf16"].words
    assert jobs["demo_cuda"].words[-2:] == ("--model", "a/folder")


def test_rehearsal_runs_jobs_and_leaves_nothing(tmp_path, capfd, monkeypatch):
    """A typing error in the runner itself would be found on the card."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(gpu_jobs, "_TINY_OBJECTIVE", (*gpu_jobs._TINY_OBJECTIVE, "--repeats", "1"))
    assert run("--rehearse", "--only", "objective_1b", "profile_smollm2") == 0
    printed = capfd.readouterr()
    assert "objective_1b: done in" in printed.err and "profile_smollm2: done in" in printed.err
    assert "Not done, " not in printed.out
    assert not list(tmp_path.glob("hf_ckt_gpu_*"))


def test_rehearsal_without_time_lists_everything(tmp_path, capfd, monkeypatch):
    """A budget that is used up must end with what is left to do, and its commands."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert run("--rehearse", "--minutes", "0.01") == 1
    out = capfd.readouterr().out
    assert "Not done, with the reason and the command:" in out
    assert all(f"  {name}: needs about" in out for name in NAMES)
    assert out.count("\n    python examples/benchmarks/") == len(NAMES)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "objective_9b"], "unknown name 'objective_9b'"),
        (["--minutes", "0"], "--minutes"),
        (["--rehearse", "--model", "x"], "--model: a rehearsal takes a tiny model"),
    ],
)
def test_wrong_option_is_one_line(arguments, said, capfd):
    """A traceback hides the sentence that says what to change."""
    assert run(*arguments) == 2
    assert said in capfd.readouterr().err


def test_without_a_gpu_it_says_so(tmp_path, capfd, monkeypatch):
    """Twelve minutes of jobs that each fail for the same reason say less than one sentence."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert run("--out", str(tmp_path), "--results", str(tmp_path / "results")) == 2
    assert "torch sees no GPU" in capfd.readouterr().err


def test_without_smollm2_its_jobs_are_left(tmp_path, capfd, monkeypatch):
    """Without network the jobs would wait for the Hub one after the other."""
    facts = {"device": "a card", "commit": None, "versions": {}, "cuda": True, "gguf": False}
    monkeypatch.setattr(gpu, "_python", lambda *_: json.dumps(facts))
    assert run("--only", "demo_cuda", "--out", str(tmp_path), "--results", str(tmp_path / "results")) == 1
    out = capfd.readouterr().out
    assert "needs SmolLM2" in out and "HF_CKT_SMOLLM2_GGUF" in out


def test_bundle_is_taken_up_where_there_is_one(tmp_path, monkeypatch):
    """Jobs that do not see the wheels fail at their first import; the clone's package comes before a wheel's."""
    plain = gpu.job_environment(None, tmp_path / "work")
    assert plain["PYTHONPATH"].split(os.pathsep)[0] == str(ROOT)
    variables = {"PYTHONPATH": "/wheels", "HF_CKT_SMOLLM2_GGUF": "/model.gguf"}
    monkeypatch.setattr(gpu, "prepare", lambda folder, work: variables)
    environment = gpu.job_environment(tmp_path / "bundle", tmp_path / "work")
    assert environment["PYTHONPATH"].split(os.pathsep)[:2] == [str(ROOT), "/wheels"]
    assert environment["HF_CKT_SMOLLM2_GGUF"] == "/model.gguf"


def test_bundle_of_another_python_is_left_alone(tmp_path):
    """A rehearsal on the machine that gathered the bundle would end at wheels that are not meant for it."""
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    for python, taken in ((here, True), ("3.1", False)):
        folder = tmp_path / python
        (folder / "trip1").mkdir(parents=True)
        (folder / "trip1" / "manifest.json").write_text(json.dumps({"python": python, "files": [], "model": None}))
        assert gpu._found_bundle(folder) == (folder if taken else None)
    assert gpu._found_bundle(tmp_path / "absent") is None


def test_help_needs_neither_the_package_nor_torch(tmp_path):
    """On a bare machine a plain Python runs the script, and the wheels are only unpacked by it."""
    code = (
        "import sys\nsys.modules |= dict.fromkeys(['torch', 'transformers', 'numpy', 'tqdm'])\n"
        f"sys.path.insert(0, {str(BENCHMARKS)!r})\nimport gpu\ngpu.run(['--help'])"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "--minutes" in done.stdout
