# SPDX-License-Identifier: Apache-2.0
"""Several seeds of the quickstart, whose runs are made by hand here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.scripts import load_script

SCRIPT = Path(__file__).parents[2] / "examples" / "boundary" / "quickstart_seeds.py"
COPIED = ("device", "versions", "base_model", "base_weights", "generation", "compared_with", "judge")


@pytest.fixture
def seeds(monkeypatch, tmp_path):
    """The script, with `started`: the command lines of the runs that it starts; seed 13 fails."""
    module = load_script(SCRIPT)
    module.started = []

    def run(command, check):
        module.started.append(command)
        folder, seed = Path(command[command.index("--output-dir") + 1]), int(command[command.index("--seed") + 1])
        if seed == 13:
            return subprocess.CompletedProcess(command, 1)
        j = {"value": 0.2 * seed, "low": None, "high": None}
        area = {"value": None if seed == 2 else 0.9, "low": None, "high": None}
        models = {
            "before": {"scores": {"youden_j": j}, "against": {}},
            "after": {
                "scores": {"youden_j": {**j, "value": 0.5 + j["value"]}, "refusal_auroc": area},
                "against": {"before": {"youden_j": {"difference": 0.5}}},
            },
        }
        results = dict.fromkeys(COPIED) | {"settings": {"seed": seed}, "seconds": 100 * seed, "resumed": False}
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "results.json").write_text(json.dumps(results | {"models": models}))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(module.subprocess, "run", run)
    monkeypatch.chdir(tmp_path)
    return module


def start(module, monkeypatch, *options):
    monkeypatch.setattr(sys, "argv", ["quickstart_seeds.py", "--output-dir", "out", *options])
    module.main()
    return json.loads(Path("out/results.json").read_text())


def test_mean_of_each_model_is_over_the_seeds(seeds, monkeypatch):
    """Models that are swapped, or a seed that counts twice, give a table that looks as good."""
    results = start(seeds, monkeypatch, "--seeds", "1", "2", "--prompts", "4")
    assert results["scores"]["before"]["youden_j"]["mean"] == pytest.approx(0.3)
    assert results["scores"]["after"]["youden_j"] == {"mean": pytest.approx(0.8), "values": pytest.approx([0.7, 0.9])}
    assert "refusal_auroc" not in results["scores"]["after"]  # one run has no value
    assert results["differences"] == {"after minus before": {"youden_j": {"mean": 0.5, "values": [0.5, 0.5]}}}
    assert results["seconds"] == [100, 200] and results["settings"]["seed"] == [1, 2]
    assert all("--prompts" in command for command in seeds.started)


def test_seed_that_is_done_is_not_run_again(seeds, monkeypatch):
    """Its time would become that of reading files; and a run with other options would be taken for this one."""
    start(seeds, monkeypatch, "--seeds", "1")
    start(seeds, monkeypatch, "--seeds", "1", "2")
    assert len(seeds.started) == 2
    start(seeds, monkeypatch, "--seeds", "1", "--prompts", "4")
    assert len(seeds.started) == 3


@pytest.mark.parametrize("options", [["--seeds", "1", "1"], ["--seed", "9"], ["--seed=9"]])
def test_one_seed_for_all_runs_is_refused(seeds, monkeypatch, options, capsys):
    """Three runs of one seed would be a mean over seeds without any spread."""
    with pytest.raises(SystemExit):
        start(seeds, monkeypatch, *options)
    assert "--seed" in capsys.readouterr().err and not seeds.started


def test_seed_that_fails_ends_the_script(seeds, monkeypatch):
    """A mean over the rest would be called one over all."""
    with pytest.raises(SystemExit, match="seed 13"):
        start(seeds, monkeypatch, "--seeds", "1", "13", "2")
    assert len(seeds.started) == 2 and not Path("out/results.json").exists()
