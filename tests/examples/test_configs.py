# SPDX-License-Identifier: Apache-2.0
"""The run files of the examples train from the command line."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hf_ckt.cli import main as cli
from tests.examples.running import EXAMPLES, ROOT


@pytest.fixture(scope="module")
def folder(tiny_model_dir, tmp_path_factory):
    """What the student's run file reads: its rows, and a teacher of refusals that the other run file trained."""
    folder = tmp_path_factory.mktemp("align")
    rows = [
        {
            "prompt": [{"role": "user", "content": f"How do I bake {n} loaves?"}],
            "completion": [{"role": "assistant", "content": f"Mix flour for {n} and wait."}],
        }
        for n in range(16)
    ]
    write(folder / "rows" / "refusals.jsonl", rows)
    named = [
        row
        | {"teacher": ("refuse", "answer")[n % 2], "teacher_prompt": row["prompt"] if n % 4 else None}
        | {"prompt": [{"role": "user", "content": f"Hwo do I bkae {n} loaves?"}] if n % 4 else row["prompt"]}
        for n, row in enumerate(rows)
    ]
    write(folder / "rows" / "student.jsonl", named)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("ALIGN_FOLDER", str(folder))
        assert cli.main(["train", *words("safety_adapter.yaml", tiny_model_dir)]) == 0
    return folder


def write(file: Path, rows: list[dict]) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def words(config: str, model: Path) -> list[str]:
    given = {"model-name-or-path": model, "max-steps": 2, "use-cpu": True, "save-strategy": "no", "logging-steps": 1}
    options = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    return ["--config", str(EXAMPLES / "configs" / config), *options]


def test_dry_run_of_the_students_config_shows_both_teachers(folder, tiny_model_dir, monkeypatch, capsys):
    """A run file that hears one teacher alone trains a student that refuses everything, or nothing."""
    monkeypatch.setenv("ALIGN_FOLDER", str(folder))
    assert cli.main(["train", *words("align.yaml", tiny_model_dir), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^row 1: .*teacher: refuse", said, flags=re.M)
    assert re.search(r"^row 2: .*teacher: answer", said, flags=re.M)
    assert re.search(r"^distillation +forward_kl +1 ", said, flags=re.M) and "nf4 weights" in said
    assert not re.search(r"^(task|consistency) ", said, flags=re.M)
    assert "optimizer steps: 2" in said and not (folder / "student").exists()


def test_example_config_trains_from_the_command_line(folder, tiny_model_dir):
    """A config file in the examples with a field that was renamed fails at a user's first try."""
    assert (folder / "safety" / "adapter_model.safetensors").exists()
    command = [sys.executable, "-m", "hf_ckt.cli.main", "train", *words("align.yaml", tiny_model_dir)]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "ALIGN_FOLDER": str(folder)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (folder / "student" / "adapter_model.safetensors").exists()
    assert re.search(r"training: 1/2 steps, .*distillation \d.*contrastive \d", done.stdout)
