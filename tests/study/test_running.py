# SPDX-License-Identifier: Apache-2.0
"""A study of two methods on a tiny model: what it leaves, that it goes on, and what it says where a cell fails."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from hf_ckt.cli import main as cli
from hf_ckt.study import running
from hf_ckt.study.cells import Commands, StepFailed, _gradients, _last_line, _tokens, train_cell
from hf_ckt.study.plan import Study
from hf_ckt.study.running import plan_lines, run_study

ROWS = [{"prompt": f"What is {n} plus one?", "completion": f"It is {n + 1}."} for n in range(8)]


@pytest.fixture(scope="module")
def study(tiny_model_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    off = {f"{role}_weight": 0.0 for role in ("contrastive", "consistency", "regularization")}
    return Study.of(
        {
            "model": str(tiny_model_dir),
            "train": {
                "dataset_name": str(folder / "rows.jsonl"),
                "max_steps": 1,
                "logging_steps": 1,
                "per_device_train_batch_size": 2,
                "use_peft": True,
                "lora_target_modules": "all-linear",
                "use_cpu": True,
                "dtype": "float32",
                "bf16": False,
                **off,
            },
            "prepare": {"safe": {"distillation_weight": 0.0}},
            "methods": {
                "sft": {"distillation_weight": 0.0},
                "kd": {"distillation_weight": 1.0, "teacher_model_name_or_path": {"adapter": "@safe"}},
            },
            "seeds": [0, 1],
            "compare": ["safe"],
            "evaluate": {"suite": "smoke", "only": ["direct", "overrefusal"], "new_tokens": 2, "dtype": "float32"},
        }
    )


@pytest.fixture(scope="module")
def ran(study, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ran")
    return folder, run_study(study, folder, jobs=2)


def test_study_keeps_a_record_of_each_cell_and_compares_all(study, ran):
    """Cells without their circumstances cannot be repeated, and scores of several evaluations are not paired."""
    folder, results = ran
    assert json.loads((folder / "results.json").read_text()) == json.loads(json.dumps(results))
    assert [*results["cells"]] == [cell.name for cell in study.cells()]
    for cell in study.cells():
        one = json.loads((folder / "cells" / f"{cell.name}.json").read_text())
        assert one == results["cells"][cell.name]
        assert one["seconds"] > 0 and one["peak_memory"] > 2**26 and one["tokens"] > 0 and "trl" in one["versions"]
        assert yaml.safe_load((folder / "cells" / f"{cell.name}.yaml").read_text())["seed"] == cell.seed
    scores = json.loads((folder / results["evaluation"]).read_text())
    assert [*results["compared"]] == ["safe"]
    assert {*scores["models"]} == {"base", results["compared"]["safe"], *results["cells"]}
    assert {*scores["pooled"]} >= {"sft", "kd"}
    assert {"sft", "kd"} <= {*scores["models"][results["compared"]["safe"]]["against"]} | {
        name for name, one in scores["pooled"].items() if results["compared"]["safe"] in one["against"]
    }
    assert results["groups"]["kd"] == [cell.name for cell in study.cells() if cell.method == "kd"]


def test_study_run_again_trains_and_answers_nothing(study, ran, monkeypatch):
    """Hours would be lost to what was finished."""
    folder, results = ran
    asked = []
    monkeypatch.setattr(Commands, "run", lambda self, words, log: asked.append(words))
    assert run_study(study, folder)["cells"] == results["cells"]
    (comparison,) = asked  # of kept pieces alone
    assert comparison[0] == "evaluate" and "--pool" in comparison
    lines = plan_lines(study, folder)
    assert sum(line.startswith("cell     done") for line in lines) == 4 and "4 cells, 0 open" in lines[-1]


def test_time_left_is_told_by_the_cells_of_this_run(study, monkeypatch):
    """Finished cells pass in no time: counted as run, they would promise the rest in a fraction of what it takes."""
    bars = []

    class Bar(running.ProgressBar):
        def __init__(self, **known):
            super().__init__(**known)
            bars.append((self.n, self.total))

        def close(self):
            bars.append((self.n, self.total))
            super().close()

    monkeypatch.setattr(running, "ProgressBar", Bar)
    cells = study.cells()
    done = {cells[0].name, cells[2].name}
    results = running._side_by_side(cells, done, lambda cell: {"seed": cell.seed}, 2, Commands())
    assert {*results} == {cell.name for cell in cells}
    assert bars[0] == (2, 4) and bars[-1] == (4, 4)


def test_cells_are_evaluated_again_where_the_file_asks_for_another_evaluation(study, ran, monkeypatch):
    """The scores of the old one would be those of the study."""
    folder, _ = ran
    asked = []
    monkeypatch.setattr(Commands, "run", lambda self, words, log: asked.append(words))
    other = Study.of({**vars(study), "evaluate": {**study.evaluate, "new_tokens": 3}})
    assert "4 cells, 4 open" in plan_lines(other, folder)[-1]
    run_study(other, folder)
    assert [words[0] for words in asked] == ["evaluate"] * 7  # the base, what is compared, four cells, all


def test_folder_of_another_file_raises(study, tmp_path):
    """Two files of one name would write into each other's results."""
    (tmp_path / "source.json").write_text(json.dumps("/elsewhere/main.yaml"))
    with pytest.raises(ValueError, match="holds the study of another file"):
        run_study(study, tmp_path, source=tmp_path / "main.yaml")


def test_other_tier_of_the_file_raises_in_its_folder(study, tmp_path):
    """A smoke run's scores would be written over those of the whole."""
    (tmp_path / "source.json").write_text(json.dumps(str(tmp_path / "main.yaml")))
    with pytest.raises(ValueError, match="holds the study of another file"):
        run_study(study, tmp_path, source=tmp_path / "main.yaml", tier="smoke")


def test_missing_program_is_told_before_anything_is_trained(study, tmp_path):
    """It would be found when all before it are trained, hours later."""
    methods = {**study.methods, "other": {"program": "none.py"}}
    with pytest.raises(ValueError, match=r"methods, other: there is no program 'none\.py'"):
        run_study(Study.of({**vars(study), "methods": methods}), tmp_path)
    assert not [*tmp_path.iterdir()]


def test_program_that_saves_nothing_has_failed(study, tmp_path):
    """Recorded as trained, it would never be run again, and its evaluation fail each time."""
    script = tmp_path / "other.py"
    script.write_text("")
    cell = Study.of({**vars(study), "methods": {"other": {"program": str(script)}}, "evaluate": {}}).cells()[0]
    for _ in range(2):
        with pytest.raises(StepFailed, match=r"other\.py ended well, but .* holds none of adapter_config\.json"):
            train_cell(cell, study.model, tmp_path, Commands())


def test_pieces_are_shared_by_all_evaluations(ran):
    """The base would be asked anew in each cell."""
    folder, _ = ran
    of_base = [
        key
        for key in (json.loads(file.read_text())["key"] for file in (folder / "pieces").glob("*.json"))
        if key.get("model", [None, 0])[1] is None
    ]
    assert of_base and len({json.dumps(key, sort_keys=True) for key in of_base}) == len(of_base)
    assert not [*(folder / "evaluations").glob("*/pieces")] and not (folder / "evaluation" / "pieces").exists()


def test_cell_that_fails_is_named_and_the_others_are_run(study, ran, tmp_path):
    """One wrong method would end a night's study at its first cell."""
    folder, _ = ran
    wrong = Study.of(
        {**vars(study), "methods": {**study.methods, "wrong": {"distillation_weight": -1.0}}, "seeds": [0]}
    )
    for part in ("cells", "adapters", "evaluations", "pieces"):
        shutil.copytree(folder / part, tmp_path / part)
    with pytest.raises(StepFailed, match=r"1 of 3 cells failed, the first: wrong-0-\w+: .*distillation_weight"):
        run_study(wrong, tmp_path)
    assert not (tmp_path / "results.json").exists()
    assert sum("open" in line for line in plan_lines(wrong, tmp_path)) == 2  # the wrong one, and the last line


def test_time_that_is_left_is_told_before_anything_was_measured(study, tmp_path):
    """Nobody starts a study that may take an hour or a week."""
    assert "not known before one is trained" in plan_lines(study, tmp_path)[-1]
    told = Study.of({**vars(study), "minutes": 3.0})
    # One that others build on, then two by two.
    assert "about 9 minutes of training (3.0 each, 2 side by side)" in plan_lines(told, tmp_path, jobs=2)[-1]


def test_command_that_fails_says_how_its_log_ends(tmp_path):
    """Its exit code alone says nothing, and the log's place is not known."""
    for tries in (1, 2):
        with pytest.raises(StepFailed, match=r"hf-ckt train ended with 2: .*no such file, 'none\.yaml'.*one\.log"):
            Commands().run(["train", "--config", "none.yaml"], tmp_path / "one")
        # What it took is not forgotten: a cell's seconds are those of all attempts.
        assert len(json.loads((tmp_path / "one.attempts.json").read_text())) == tries


def test_program_trains_in_place_of_the_command(tmp_path):
    """Another library's trainer is then a method like others, and its errors are told as theirs."""
    script = tmp_path / "other.py"
    lines = ["import pathlib, sys", "(pathlib.Path(sys.argv[2]).parent / 'said').write_text(' '.join(sys.argv[1:]))"]
    script.write_text("\n".join(lines))
    Commands().run(["train", "--config", str(tmp_path / "run.yaml")], tmp_path / "one", str(script))
    assert (tmp_path / "said").read_text() == f"--config {tmp_path / 'run.yaml'}"
    script.write_text("raise SystemExit('no such teacher')")
    with pytest.raises(StepFailed, match=r"other\.py ended with 1: no such teacher"):
        Commands().run(["train", "--config", "run.yaml"], tmp_path / "one", str(script))


def test_tokens_are_counted_over_a_resume():
    """The trainer counts anew where it goes on, so a cell that was stopped would have read half."""
    assert (
        _tokens([{"num_tokens": 10.0}, {"loss": 1}, {"num_tokens": 20.0}, {"num_tokens": 5.0}, {"num_tokens": 9.0}])
        == 29
    )
    assert _tokens([{"loss": 1}]) is None


def test_progress_bar_is_not_how_a_log_ends():
    """It is drawn once more when the error has been said, and tells nothing of it."""
    assert _last_line("loading\nValueError: no row\n\r 50%|#####     | 1/2 [00:01<00:01]") == "ValueError: no row"
    assert _last_line("\r 50%|#####     | 1/2") == _last_line("") == "it said nothing"


def test_gradients_tell_spikes_from_steps_that_are_not_finite():
    """A mean over them would be no number, or hide the one step that broke the run."""
    entries = [{"grad_norm": norm} for norm in (1.0, 3.0, float("nan"), 2.0, float("inf"))]
    assert _gradients([*entries, {"loss": 1.0}]) == {"median": 2.0, "largest": 3.0, "not_finite": 2}
    assert _gradients([{"grad_norm": float("nan")}])["not_finite"] == 1 and _gradients([{"loss": 1.0}]) is None


@pytest.fixture
def slow_command(tmp_path, monkeypatch):
    """In place of `hf-ckt`, a program that says that it began and then waits."""
    program = tmp_path / "program"
    program.write_text(f"#!{sys.executable}\nimport sys, time\nprint(*sys.argv, flush=True)\ntime.sleep(60)\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    return tmp_path / "one.log"


def _wait_for(file):
    start = time.monotonic()
    while not (file.exists() and file.read_text()):
        assert time.monotonic() - start < 20
        time.sleep(0.05)


def test_commands_are_ended_together(slow_command, tmp_path):
    """Left behind by a study that was stopped, they would write where the next one starts."""
    commands = Commands()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(commands.run, ["train"], tmp_path / "one")
        _wait_for(slow_command)
        commands.end()
        with pytest.raises(StepFailed, match=r"ended with -15"):
            running.result(timeout=20)
    with pytest.raises(StepFailed, match="was not started"):
        commands.run(["train"], tmp_path / "two")


def test_commands_can_be_ended_by_the_thread_that_starts_one():
    """A signal's handler runs in whichever moment of the main thread, and would wait for its own lock."""
    commands = Commands()
    with commands._guard:
        assert commands._guard.acquire(blocking=False)
        commands._guard.release()


def test_signal_that_ends_a_study_ends_its_commands(slow_command, tmp_path):
    """SIGTERM ends a process at once, and its children not."""
    commands, before = Commands(), signal.getsignal(signal.SIGTERM)  # another test's library may have set one
    with pytest.raises(KeyboardInterrupt), running._ended_by_signals(commands), ThreadPoolExecutor(1) as pool:
        ran = pool.submit(commands.run, ["train"], tmp_path / "one")
        _wait_for(slow_command)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(20)
    with pytest.raises(StepFailed, match=r"ended with -15"):
        ran.result(timeout=20)
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.skipif(sys.platform == "win32", reason="no flock")
def test_command_that_a_killed_study_left_running_is_not_run_twice(slow_command, tmp_path):
    """SIGKILL cannot be caught; two trainings of one cell would write into one folder."""
    lines = [
        "import sys, threading, os, signal, time, pathlib",
        "from hf_ckt.study.cells import Commands",
        f"sys.executable = {sys.executable!r}",
        f"threading.Thread(target=Commands().run, args=(['train'], pathlib.Path({str(tmp_path / 'one')!r}))).start()",
        "time.sleep(60)",
    ]
    real = Path(sys.prefix) / "bin" / "python"
    study = subprocess.Popen([str(real), "-c", "\n".join(lines)])
    _wait_for(slow_command)
    study.kill()
    study.wait()
    try:
        with pytest.raises(StepFailed, match="another hf-ckt train is at it"):
            Commands().run(["train"], tmp_path / "one")
    finally:
        for process in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if str(tmp_path / "program").encode() in process.read_bytes():
                    os.kill(int(process.parent.name), signal.SIGKILL)


def test_study_from_the_command_line_lists_its_cells(study, tmp_path, capsys):
    """A file is read by the command alone."""
    file = tmp_path / "main.yaml"
    file.write_text(yaml.safe_dump({**vars(study), "minutes": 3.0}))
    assert cli.main(["study", "--config", str(file), "--output", str(tmp_path / "out"), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("cell     open") == 4 and "prepare  open  safe-0-" in printed
    assert not (tmp_path / "out").exists()
    assert cli.main(["study", "--config", str(file), "--jobs", "0"]) == 2
    assert "--jobs" in capsys.readouterr().err
    file.write_text(yaml.safe_dump({**vars(study), "evaluate": {"new_token": False}}))
    assert cli.main(["study", "--config", str(file), "--dry-run"]) == 2
    assert "Did you mean 'new_tokens'" in capsys.readouterr().err
