# SPDX-License-Identifier: Apache-2.0
"""`hf-ckt lm-eval`: the options reach the harness, the table shows what the file holds, errors are one sentence."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hf_ckt.cli import lm_eval
from hf_ckt.cli.main import main
from hf_ckt.evaluation.harness import run as harness

ROOT = Path(__file__).parents[2]


@pytest.fixture
def wanted(monkeypatch):
    """Catches what is asked of the harness, and answers with a small table."""
    caught = {}
    score = {"metric": "acc", "value": 0.25, "stderr": 0.1, "n": 4, "low": None, "high": None}
    shares = {"metric": "refused", "value": 0.5, "stderr": 0.2, "n": 8, "low": 0.21514, "high": 0.78486}

    def answer(options, folder, command):
        caught.update(options=options, folder=folder, command=command)
        return {
            "tasks": {
                "mmlu": {"higher_is_better": True, "models": {"base": score, "adapter": {**score, "value": 0.5}}},
                "hf_ckt_overrefusal": {
                    "higher_is_better": False,
                    "models": {"base": shares, "adapter": {**shares, "value": None}},
                },
            },
            "models": {"base": {}, "adapter": {}},
            "judge": {"error": [{"set": "labelled answers", "n": 240, "accuracy": 0.91}]},
        }

    monkeypatch.setattr(harness, "score_with_harness", answer)
    return caught


def test_options_reach_the_harness(wanted, tmp_path):
    """An option that is parsed and dropped leaves a table of something else."""
    arguments = [
        "--model",
        "org/base",
        "--adapter",
        "org/a",
        "--compare",
        "org/b",
        "org/c",
        "--tasks",
        "mmlu",
        "gsm8k",
    ]
    arguments += ["--limit", "5", "--num-fewshot", "3", "--batch-size", "2", "--no-chat-template", "--load-in-4bit"]
    arguments += [
        "--trust-remote-code",
        "--dtype",
        "float32",
        "--system-prompt",
        "Be kind.",
        "--output",
        str(tmp_path),
    ]
    assert main(["lm-eval", *arguments]) == 0
    options = wanted["options"]
    assert (options.model, options.adapter, options.compare) == ("org/base", "org/a", ["org/b", "org/c"])
    assert (options.tasks, options.limit, options.num_fewshot) == (["mmlu", "gsm8k"], 5, 3)
    assert (options.batch_size, options.chat_template, options.system_prompt) == (2, False, "Be kind.")
    loading = options.loading
    assert (loading.dtype, loading.quantization, loading.trust_remote_code) == ("float32", "nf4", True)
    assert wanted["folder"] == tmp_path
    assert wanted["command"].startswith("hf-ckt lm-eval --model org/base") and str(tmp_path) not in wanted["command"]


def test_defaults_are_chat_and_all_documents(wanted, tmp_path):
    """A safety rate without the chat template, or of a few prompts, passes for the real one."""
    assert main(["lm-eval", "--model", "m", "--tasks", "hf_ckt_direct", "--output", str(tmp_path)]) == 0
    options = wanted["options"]
    assert options.chat_template and options.limit is None and options.num_fewshot is None
    assert options.loading.quantization is None and not options.loading.trust_remote_code


def test_table_shows_value_uncertainty_number_and_direction(wanted, tmp_path, capsys):
    """A bare rate hides that it is of four questions, and over-refusal reads like a virtue."""
    command = ["lm-eval", "--model", "m", "--tasks", "mmlu", "--limit", "4", "--output", str(tmp_path)]
    assert main(command) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "task metric better base adapter"
    assert lines[1] == "mmlu acc higher 0.250 ± 0.100 (n=4) 0.500 ± 0.100 (n=4)"
    assert lines[2] == "hf_ckt_overrefusal refused lower 0.500 [0.215, 0.785] (n=8) none (n=8)"
    assert "right on 91% of 240 answers" in lines[3]
    assert "first 4 documents" in lines[4]


def test_command_names_no_folder_of_the_machine(wanted, tmp_path):
    """The command is printed in reports; where somebody keeps models is nobody's business."""
    folder = tmp_path / "secret" / "my-model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    assert main(["lm-eval", "--model", str(folder), "--tasks", "mmlu", f"--output={tmp_path}"]) == 0
    assert wanted["command"] == "hf-ckt lm-eval --model my-model --tasks mmlu"


def test_tiny_model_is_scored_from_the_command_line(tiny_model_dir, tmp_path, capsys):
    """The parts work and the command does not: the one thing that users run."""
    pytest.importorskip("lm_eval")
    arguments = ["--model", str(tiny_model_dir), "--dtype", "float32", "--tasks", "hf_ckt_choices", "--limit", "2"]
    assert main(["lm-eval", *arguments, "--output", str(tmp_path)]) == 0
    assert "hf_ckt_choices" in capsys.readouterr().out
    results = json.loads((tmp_path / "lm_eval.json").read_text(encoding="utf-8"))
    assert results["tasks"]["hf_ckt_choices"]["models"]["base"]["n"] == 2


def test_missing_harness_is_one_sentence(tmp_path, capsys, monkeypatch):
    """A traceback hides the one command that helps."""
    monkeypatch.setattr(harness.importlib.util, "find_spec", lambda name: None)
    assert main(["lm-eval", "--model", "m", "--tasks", "mmlu", "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and 'pip install "hf-ckt[eval]"' in error


def test_help_waits_for_no_heavy_library():
    """The help would take seconds, for a few lines of text."""
    code = (
        "import sys; from hf_ckt.cli import lm_eval\n"
        "try: lm_eval.run(['--help'])\nexcept SystemExit: pass\n"
        "sys.exit(bool({'torch', 'transformers', 'datasets', 'lm_eval'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert all(
        name in done.stdout for name in ("--adapter", "--no-chat-template", "hf_ckt_jailbreak", "--load-in-8bit")
    )
    assert lm_eval.__doc__.splitlines()[0] in " ".join(done.stdout.split())
