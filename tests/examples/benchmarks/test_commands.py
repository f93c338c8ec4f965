# SPDX-License-Identifier: Apache-2.0
"""The benchmark scripts as commands: their help does not wait for torch, and wrong input is one line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import page
import plot
from tests.examples.benchmarks import documents

SCRIPTS = Path(__file__).parents[3] / "examples" / "benchmarks"


def run_script(name: str, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(SCRIPTS / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize(
    "name", ["objective", "step", "plot", "page", "gpu", "gpu_tests", "demo", "fit_check", "profile_step"]
)
def test_help_of_a_benchmark_imports_no_torch(name):
    """The help would take seconds on a cold disk, for a few lines of text."""
    code = (
        f"import sys\nsys.path.insert(0, {str(SCRIPTS)!r})\nsys.argv[0] = '{name}.py'\nimport {name}\n"
        f"try:\n    {name}.run(['--help'])\nexcept SystemExit:\n    pass\n"
        "sys.exit(bool({'torch', 'transformers', 'matplotlib'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"usage: {name}.py" in done.stdout


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("objective.py", ["--repeats", "0"], "objective.py: error: --repeats: must be 1 or more"),
        ("step.py", ["--precision", "fp23"], "Did you mean 'fp32'?"),
        ("plot.py", ["missing.json"], "plot.py: error: "),
        ("page.py", ["--page", "missing.md"], "page.py: error: "),
    ],
)
def test_wrong_input_of_a_script_is_one_line(name, arguments, said):
    """A traceback from a script hides the sentence that says what to change."""
    done = run_script(name, *arguments)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr


def test_plot_and_page_work_on_files(tmp_path, capsys):
    """Options that end up in other places than they say would draw beside the results of the repository."""
    pytest.importorskip("matplotlib")
    results = tmp_path / "results"
    results.mkdir()
    (results / "objective_smollm2.json").write_text(json.dumps(documents.objective()))
    assert plot.run([str(results / "objective_smollm2.json")]) == 0
    assert (results / "objective_smollm2.png").exists() and (results / "objective_smollm2.svg").exists()
    path = tmp_path / "README.md"
    path.write_text("<!-- bench:objective_smollm2 -->\n<!-- /bench:objective_smollm2 -->\n")
    assert page.run(["--page", str(path), "--results", str(results)]) == 0
    assert "| hf_ckt |" in path.read_text() and "results/objective_smollm2.png" in path.read_text()
