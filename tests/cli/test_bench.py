# SPDX-License-Identifier: Apache-2.0
"""`hf-ckt bench`: what it offers, and that its help does not wait for torch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hf_ckt.cli import main as cli
from tests.bench import documents

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_help_lists_every_benchmark(arguments, capsys):
    """A benchmark that the help leaves out is never run."""
    assert cli.main(["bench", *arguments]) == 0
    printed = capsys.readouterr().out
    assert all(f"\n  {name} " in printed for name in ("objective", "step", "fit", "plot", "page"))


@pytest.mark.parametrize("name", ["objective", "step", "fit", "plot", "page"])
def test_help_of_a_benchmark_imports_no_torch(name):
    """The help would take seconds on a cold disk, for a few lines of text."""
    code = (
        "import sys\nfrom hf_ckt.cli.main import main\n"
        f"try:\n    main(['bench', '{name}', '--help'])\nexcept SystemExit:\n    pass\n"
        "sys.exit(bool({'torch', 'transformers', 'matplotlib'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert f"usage: hf-ckt bench {name}" in done.stdout


def test_unknown_benchmark_names_the_nearest(capsys):
    """A bare 'unknown' leaves the reader to hunt for the typo."""
    assert cli.main(["bench", "objektive"]) == 2
    assert "Did you mean 'objective'?" in capsys.readouterr().err


def test_plot_and_page_work_on_files(tmp_path, capsys):
    """Options that end up in other places than they say would draw beside the results of the repository."""
    pytest.importorskip("matplotlib")
    results = tmp_path / "results"
    results.mkdir()
    (results / "objective_smollm2.json").write_text(json.dumps(documents.objective()))
    assert cli.main(["bench", "plot", str(results / "objective_smollm2.json")]) == 0
    assert (results / "objective_smollm2.png").exists() and (results / "objective_smollm2.svg").exists()
    page = tmp_path / "README.md"
    page.write_text("<!-- bench:objective_smollm2 -->\n<!-- /bench:objective_smollm2 -->\n")
    assert cli.main(["bench", "page", "--page", str(page), "--results", str(results)]) == 0
    assert "| hf_ckt |" in page.read_text() and "results/objective_smollm2.png" in page.read_text()
    assert cli.main(["bench", "plot", str(results / "missing.json")]) == 2
