# SPDX-License-Identifier: Apache-2.0
"""From data to a merged model, for two steps on a tiny model, and what decides whether it goes on."""

import importlib.util
import json
import os
import re
import sys
from pathlib import Path
from unittest.mock import patch

import pytest

from hf_ckt.cli import main as cli
from tests.examples.running import EXAMPLES, ROOT, examples_importable

PAGE = ROOT / "docs" / "large_model.md"


@pytest.fixture(scope="module")
def script():
    """The script as a module; its commands run in this process, which need not import all again."""

    def run_here(words, variables):
        with patch.dict(os.environ, variables):
            assert cli.main(words) == 0
        return 1

    with examples_importable():
        spec = importlib.util.spec_from_file_location("large_model", EXAMPLES / "03_large_model.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules["large_model"] = module  # where dataclasses look for it
        spec.loader.exec_module(module)
        module.run_apart, module.run_process = module.run_process, run_here
        yield module


def start(script, options):
    with patch.object(sys, "argv", ["03_large_model.py", *options]):
        return script.main()


@pytest.fixture(scope="module")
def large(script, tiny_model_dir, tmp_path_factory):
    """The output folder of a rehearsal with a row of the user's own, and its options."""
    folder = tmp_path_factory.mktemp("large")
    own = {"prompt": "Where do I report a broken street lamp?", "response": "At the town hall.", "kind": "plain"}
    (folder / "own.jsonl").write_text(json.dumps(own) + "\n")
    options = ["--model", str(tiny_model_dir), "--output-dir", str(folder / "out"), "--smoke", "--labelled", "16"]
    options += ["--max-length", "128", "--new-tokens", "4", "--rows", str(folder / "own.jsonl")]
    assert start(script, options) == 0
    return folder / "out", options


def read(file):
    return json.loads(file.read_text(encoding="utf-8"))


def rows_of(file):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_large_model_writes_rows_that_name_their_teacher(large):
    """Rows without a name hear the first teacher, so that the student would learn to refuse everything."""
    folder, _ = large
    rows = rows_of(folder / "rows" / "student.jsonl")
    assert len(rows) == 8  # two steps of four
    assert all(row["teacher"] == ("refuse" if row["kind"] == "harmful" else "answer") for row in rows)
    noisy = [row for row in rows if row["teacher_prompt"]]
    assert noisy and all(row["teacher_prompt"] != row["prompt"] for row in noisy)
    refused = [row["completion"][0]["content"] for row in rows_of(folder / "rows" / "refusals.jsonl")]
    assert len(refused) > 300 and all(one.startswith("Sorry") for one in refused)
    assert "own-0" in {row["id"] for row in rows_of(folder / "rows" / "labelled.jsonl")}


def test_large_model_trains_a_student_of_two_teachers_over_four_bits(large):
    """A run file that lost a teacher trains all the same, towards the base alone."""
    folder, _ = large
    run = read(folder / "student" / "hf_ckt_training.json")
    assert run["backbone"]["weights"] == "nf4" and run["settings"]["max_steps"] == 2
    assert {term["role"] for term in run["objective"]} == {"distillation", "contrastive", "regularization"}
    kinds = {one["route"]: one["kind"] for one in run["teacher"]}
    assert kinds == {"refuse": "privileged_context of adapter", "answer": "privileged_context of self"}
    assert read(folder / "safety" / "hf_ckt_training.json")["backbone"]["weights"] == "nf4"


def test_large_model_decides_by_its_results(large):
    """A line that was typed apart from what was measured would let a bad adapter through."""
    folder, _ = large
    verdict = read(folder / "verdict.json")
    scores = read(folder / "evaluation" / "results.json")["models"]["adapter"]["scores"]
    assert verdict["aims"][0]["found"] == scores["safety"]
    assert verdict["verdict"] == "NO-GO"  # a random model refuses nothing
    assert [one["model"] for one in read(folder / "teachers.json")["aims"]] == ["safety", "base"]


def test_large_model_merges_what_it_trained_and_writes_the_card(large, tiny_model_dir):
    """Weights that were saved without the adapter load as well, and are the base."""
    from safetensors.torch import load_file

    folder, _ = large
    merged, base = (load_file(path / "model.safetensors") for path in (folder / "merged", Path(tiny_model_dir)))
    moved = [name for name, weight in merged.items() if not weight.float().equal(base[name].bfloat16().float())]
    assert moved and all("_proj" in name for name in moved)
    assert "Youden's J" in (folder / "student" / "README.md").read_text(encoding="utf-8")
    assert {"base", "safety", "student", "evaluate", "merged", "card"} <= read(folder / "commands.json").keys()


def test_large_model_started_again_runs_no_command_twice(large, script, capsys):
    """An afternoon that was interrupted and starts over is not begun a second time."""
    folder, options = large
    before = (folder / "commands.json").read_bytes()
    assert start(script, options) == 0
    assert capsys.readouterr().out.count("done before") == len(json.loads(before))
    assert (folder / "commands.json").read_bytes() == before
    with pytest.raises(ValueError, match="run of other settings"):
        start(script, [*options, "--seed", "1"])


def test_large_model_that_is_stopped_stops_its_command(script, monkeypatch):
    """Left alone, a training goes on, and the one that takes its place finds its checkpoints deleted."""

    class Process:
        pid, ended = 1, False

        def terminate(self):
            self.ended = True

    def stopped(*_):
        raise KeyboardInterrupt

    process = Process()
    monkeypatch.setattr(script.subprocess, "Popen", lambda *_, **__: process)
    monkeypatch.setattr(script.os, "wait4", stopped)
    with pytest.raises(KeyboardInterrupt):
        script.run_apart(["train"], {})
    assert process.ended


def test_large_model_of_another_folder_deletes_nothing(script, tiny_model_dir, tmp_path):
    """`--restart --output-dir ~` would take all that lies there."""
    (tmp_path / "mine.txt").touch()
    options = [
        "--model",
        str(tiny_model_dir),
        "--output-dir",
        str(tmp_path),
        "--smoke",
        "--restart",
        "--only",
        "merge",
    ]
    with pytest.raises(
        ValueError, match=r"evaluation/results\.json: there is no such file\. The step `evaluate` writes"
    ):
        start(script, options)
    assert (tmp_path / "mine.txt").exists() and not (tmp_path / "merged").exists()
    # Now it holds a run, which is forgotten whole.
    with pytest.raises(ValueError, match=r"The step `evaluate` writes"):
        start(script, options)
    assert [one.name for one in tmp_path.iterdir()] == ["settings.json"]


@pytest.mark.parametrize(
    "option", ["--labelled", "--max-steps", "--batch-size", "--max-length", "--prompts", "--new-tokens"]
)
def test_large_model_of_nothing_is_refused(script, option, tmp_path):
    """A length of 0 fails hours later, and 0 new tokens would be taken for the suite's own number."""
    with pytest.raises(ValueError, match=f"{option}: must be 1 or more, got 0"):
        start(script, ["--output-dir", str(tmp_path / "out"), option, "0"])
    assert not (tmp_path / "out").exists()


def test_large_model_stops_where_an_aim_is_missed(large, script, capsys):
    """Who leaves it alone for an afternoon finds a merged model that nobody should use."""
    _, options = large
    given = [word for word in options if word != "--smoke"]
    given += [word for name, value in script.SMOKE.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    given += ["--labelled", "16", "--max-length", "128", "--new-tokens", "4"]
    assert start(script, [*given, "--only", "teachers", "student"]) == 3
    said = capsys.readouterr().out
    assert "stopped after teachers" in said and "== student" not in said


@pytest.mark.parametrize(
    ("value", "low", "high", "verdict"),
    [(0.80, 0.6, 0.9, "GO"), (0.79, 0.6, 0.9, "OPEN"), (0.7, 0.6, 0.79, "NO-GO")],
)
def test_aim_is_missed_only_by_a_whole_interval(script, value, low, high, verdict):
    """A point value below an aim that lies within the interval says that more prompts are needed, and no more."""
    found = {"value": value, "low": low, "high": high}
    assert script.Aim("youden_j", least=0.8).verdict(found) == verdict
    # The same on the other side: of what should be small.
    turned = {"value": -value, "low": -high, "high": -low}
    assert script.Aim("plain_text_nats", most=-0.8, minus="base").verdict(turned) == verdict
    assert script.Aim("youden_j", least=0.8).verdict(None) == "OPEN"


def test_page_states_the_aims_of_the_script(script):
    """Two lists of thresholds would differ after the first change."""
    table = re.findall(r"^\| (.+?) \| (\S+?) or (more|less) \|", PAGE.read_text(encoding="utf-8"), flags=re.M)
    stated = {(f"{name.replace('`', '')} {value} or {side}") for name, value, side in table}
    assert {str(aim) for aim in script.AIMS} == stated
