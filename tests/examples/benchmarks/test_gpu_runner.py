# SPDX-License-Identifier: Apache-2.0
"""`gpu.py`'s runner on stand-in jobs: what is begun, what is ended, what is kept. Times are bounds, not measurements."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import gpu
from gpu_jobs import Job
from gpu_runner import DONE, FAILED, LEFT, Running, StateFile, last_words, run_jobs

WRITES = "import pathlib, sys; pathlib.Path(sys.argv[1]).write_text('{}')"
# Notes when it begins and ends.
SPAN = f"import time; begin = time.time(); time.sleep(1.0); {WRITES}; print(begin, time.time())"
# A process and, in a session of its own, a child; both would go on for minutes.
HANGS = """
import pathlib, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], start_new_session=True)
pathlib.Path(sys.argv[1]).with_suffix(".pid").write_text(str(child.pid))
print("it hangs now", flush=True)
time.sleep(300)
"""


def job(folder: Path, name: str, code: str = WRITES, **changes) -> Job:
    results = folder / f"{name}.json"
    settings = {"estimate_s": 1, "limit_s": 30, **changes}
    return Job(name, f"what {name} does", (sys.executable, "-c", code, str(results)), results=results, **settings)


def go(folder: Path, *jobs: Job, seconds: float = 60, code: str = "code", **more):
    said: list[str] = []
    state = StateFile(folder / "jobs.json", code, "a device")
    logs = folder / "logs"
    environment = dict(os.environ)
    found = run_jobs(jobs, seconds=seconds, state=state, logs=logs, environment=environment, say=said.append, **more)
    return found, said


def is_alive(process: int) -> bool:
    try:
        status = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return status != "Z"


def wait_until(condition) -> bool:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


def test_jobs_that_do_not_fit_are_listed_with_their_command(tmp_path):
    """A job begun with no time left is killed half done, and one that is silently dropped is never measured."""
    jobs = [job(tmp_path, "short"), job(tmp_path, "long", estimate_s=500), job(tmp_path, "last")]
    found, said = go(tmp_path, *jobs)
    assert [one.state for one in found.values()] == [DONE, LEFT, DONE]
    assert "needs about 500 s" in found["long"].why
    assert not (tmp_path / "long.json").exists()
    text = gpu.report(jobs, found)
    assert "  long: needs about 500 s" in text and "\n    python -c " in text and "  short: " not in text
    assert said[0].startswith("short: what short does; about 1 s, 1.0 minutes left")
    assert said[1].startswith("short: done in ")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="children are found by Linux's /proc")
def test_limit_ends_a_hanging_job_with_its_children(tmp_path):
    """A worker that outlives its job holds the card while the next one is timed."""
    start = time.monotonic()
    found, _ = go(tmp_path, job(tmp_path, "hangs", HANGS, limit_s=3), job(tmp_path, "next"))
    assert time.monotonic() - start < 30
    assert found["hangs"].state == FAILED and "its limit: it hangs now" in found["hangs"].why
    assert found["next"].state == DONE
    child = int((tmp_path / "hangs.pid").read_text())
    assert wait_until(lambda: not is_alive(child))


def test_budget_ends_a_job_that_takes_longer_than_its_estimate(tmp_path):
    """An estimate that is too low would run into minutes that are somebody else's."""
    start = time.monotonic()
    found, _ = go(tmp_path, job(tmp_path, "hangs", HANGS), seconds=2.5)
    assert time.monotonic() - start < 20
    assert found["hangs"].state == FAILED and "its limit" in found["hangs"].why


def test_failing_job_says_why_and_the_next_runs(tmp_path):
    """One typing error would cost all the minutes after it."""
    fails = job(tmp_path, "fails", "import sys; print('a long story'); sys.exit('the last line says why')")
    silent = job(tmp_path, "silent", "pass")
    found, said = go(tmp_path, fails, silent, job(tmp_path, "next"))
    assert found["fails"].why == "exit code 1: a long story | the last line says why"
    assert found["silent"].why == "ended without writing silent.json: it printed nothing"
    assert found["next"].state == DONE
    assert "the last line says why" in (tmp_path / "logs" / "fails.log").read_text()
    assert all("\n" not in line for line in said)


def spans(folder: Path, *names: str) -> list[tuple[float, float]]:
    return [tuple(map(float, (folder / "logs" / f"{name}.log").read_text().split())) for name in names]


def test_jobs_that_share_overlap_and_others_run_alone(tmp_path):
    """A timing beside another job is of both; idle jobs one after the other waste the card."""
    jobs = [job(tmp_path, name, SPAN, shares=name in ("first", "third")) for name in ("first", "second", "third")]
    found, _ = go(tmp_path, *jobs)
    assert all(one.state == DONE for one in found.values()) and list(found) == ["first", "second", "third"]
    first, second, third = spans(tmp_path, "first", "second", "third")
    assert first[0] < third[1] and third[0] < first[1]
    assert second[0] >= max(first[1], third[1])


def test_companion_that_would_outlast_the_first_waits(tmp_path):
    """A long job begun beside a short one keeps the card from the timing that is next in line."""
    long = job(tmp_path, "long", SPAN, shares=True, estimate_s=50)
    found, _ = go(tmp_path, job(tmp_path, "short", SPAN, shares=True), job(tmp_path, "timing", SPAN), long)
    assert all(one.state == DONE for one in found.values())
    short, timing, last = spans(tmp_path, "short", "timing", "long")
    assert short[1] <= timing[0] and timing[1] <= last[0]


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's signal at a parent's death is Linux's")
@pytest.mark.parametrize("depth", [1, 2])
def test_killed_runner_leaves_no_process(depth, tmp_path):
    """SIGKILL asks nobody: a job that goes on holds the card, and slows what the next run times."""
    inner = f"import os, pathlib, time; pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid())); time.sleep(60)"
    for _ in range(depth):
        inner = (
            "import subprocess, sys; from child_process import end_with_parent; "
            f"subprocess.run([sys.executable, '-c', {inner!r}], preexec_fn=end_with_parent)"
        )
    outer = subprocess.Popen([sys.executable, "-c", inner], cwd=gpu.ROOT / "examples" / "benchmarks")
    assert wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    lasting = int((tmp_path / "pid").read_text())
    assert is_alive(lasting)
    outer.kill()
    outer.wait()
    assert wait_until(lambda: not is_alive(lasting))


def test_rerun_skips_what_is_done_and_repeats_what_failed(tmp_path):
    """A run that was cut off would begin with the minutes that it has already paid for."""
    fails = job(tmp_path, "fails", "raise SystemExit('no')")
    go(tmp_path, job(tmp_path, "good"), fails)
    written = (tmp_path / "good.json").stat().st_mtime_ns
    found, said = go(tmp_path, job(tmp_path, "good"), fails)
    assert found["good"].earlier and found["good"].state == DONE
    assert (tmp_path / "good.json").stat().st_mtime_ns == written
    assert not [line for line in said if line.startswith("good")] and found["fails"].state == FAILED
    # Other code, or a file that is gone: not done.
    assert not go(tmp_path, job(tmp_path, "good"), code="other")[0]["good"].earlier
    (tmp_path / "good.json").unlink()
    assert not go(tmp_path, job(tmp_path, "good"), code="other")[0]["good"].earlier


def test_jobs_that_lack_something_are_left_and_say_so(tmp_path):
    """A job without its model would fail after a minute of loading."""
    found, said = go(tmp_path, job(tmp_path, "real"), missing={"real": "needs a model"})
    assert found["real"].state == LEFT and found["real"].why == "needs a model" and not said


@pytest.mark.parametrize("content", ["", '{"code": "code", "jo', "[]"])
def test_broken_state_file_begins_anew(tmp_path, content):
    """A file from a full disk would end every later run with a traceback."""
    (tmp_path / "jobs.json").write_text(content)
    assert go(tmp_path, job(tmp_path, "good"))[0]["good"].state == DONE


def test_state_is_written_aside(tmp_path, monkeypatch):
    """Half a state file, of a run that was killed while writing, would forget everything that is done."""
    go(tmp_path, job(tmp_path, "good"))
    before = (tmp_path / "jobs.json").read_text()

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("hf_ckt.checkpoints.os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, job(tmp_path, "more"))
    assert (tmp_path / "jobs.json").read_text() == before
    assert json.loads(before)["jobs"]["good"]["state"] == DONE


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="children are found by Linux's /proc")
def test_interrupt_ends_the_jobs(tmp_path, monkeypatch):
    """Ctrl-C reaches the runner alone; jobs that it leaves behind hold the card."""
    started: list[Running] = []

    class Kept(Running):
        def outcome(self):
            started.append(self)
            assert wait_until((tmp_path / "hangs.pid").exists)
            raise KeyboardInterrupt

    monkeypatch.setattr("gpu_runner.Running", Kept)
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, job(tmp_path, "hangs", HANGS))
    child = int((tmp_path / "hangs.pid").read_text())
    assert wait_until(lambda: not is_alive(child)) and not is_alive(started[0].process.pid)


def test_termination_of_the_runner_ends_the_jobs(tmp_path):
    """A scheduler ends a run by a signal, by which Python cleans up nothing of its own accord."""
    code = f"""
import signal, sys
sys.path[:0] = {[str(gpu.ROOT / "examples" / "benchmarks"), str(gpu.ROOT)]!r}
import gpu, gpu_jobs, gpu_runner
from pathlib import Path
gpu._run = lambda *_: gpu_runner.run_jobs(
    [gpu_jobs.Job("hangs", "", (sys.executable, "-c", {HANGS!r}, {str(tmp_path / "hangs.json")!r}), 1, 60,
                  Path({str(tmp_path / "hangs.json")!r}))],
    seconds=60, state=gpu_runner.StateFile(Path({str(tmp_path / "jobs.json")!r}), "", ""),
    logs=Path({str(tmp_path)!r}), environment=dict(__import__("os").environ), say=print)
gpu.run([])
"""
    runner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
    try:
        assert wait_until((tmp_path / "hangs.pid").exists) and wait_until((tmp_path / "hangs.pid").read_text)
        child = int((tmp_path / "hangs.pid").read_text())
        runner.send_signal(signal.SIGTERM)
        assert runner.wait(timeout=20) == 143
        assert wait_until(lambda: not is_alive(child))
    finally:
        runner.kill()


def test_last_words_are_one_line(tmp_path):
    """A progress bar's thousand returns would be quoted as the reason."""
    log = tmp_path / "log"
    log.write_text("  0%|\r 50%|\r100%|\n\nValueError:   too\tsmall\n")
    assert last_words(log, lines=2) == "100%| | ValueError: too small"
    assert last_words(tmp_path / "none") == "it printed nothing"
