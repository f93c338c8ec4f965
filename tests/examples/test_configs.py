# SPDX-License-Identifier: Apache-2.0
"""The run files of the examples train from the command line."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import yaml

from tests.examples.running import ROOT


def test_example_config_trains_from_the_command_line(tiny_model_dir, tmp_path):
    """A config file in the examples with a field that was renamed fails at a user's first try."""
    config = yaml.safe_load((ROOT / "examples" / "configs" / "align.yaml").read_text())
    config |= {
        "model_name_or_path": str(tiny_model_dir),
        "dataset_name": str(write_rows(tmp_path)),
        "output_dir": str(tmp_path / "out"),
        "max_steps": 2,
        "use_cpu": True,
        "save_strategy": "no",
    }
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "hf_ckt.cli.main", "train", "--config", str(file), "--logging_steps", "1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "out" / "adapter_model.safetensors").exists()
    assert re.search(r"training: 1/2 steps, .*, consistency \d", done.stdout)


def write_rows(folder: Path) -> Path:
    rows = [
        {
            "prompt": [{"role": "user", "content": f"How do I bake {n} loaves?"}],
            "completion": [{"role": "assistant", "content": f"Mix flour for {n} and wait."}],
        }
        for n in range(16)
    ]
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file
