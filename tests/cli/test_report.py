# SPDX-License-Identifier: Apache-2.0
"""`hf-ckt report`: files where they are said to be, and one sentence for what is wrong."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hf_ckt.cli import main as cli
from tests.evaluation.report import made_up

ROOT = Path(__file__).parents[2]


def test_report_writes_what_it_prints(tmp_path, capsys):
    """A path that is printed and not there, or there and not printed, is looked for in vain."""
    pytest.importorskip("matplotlib")
    results = made_up.results()
    for model in results["models"].values():
        del model["noise"], model["by_category"], model["curve"], model["scores"]["safety"]  # to draw less
    folders = [made_up.write(tmp_path / name, results) for name in ("one", "two")]
    assert cli.main(["report", *map(str, folders)]) == 0
    printed = {Path(line) for line in capsys.readouterr().out.splitlines()}
    given = {"results.json", "completions.parquet", "lm_eval.json"}
    assert printed == {path for path in tmp_path.rglob("*") if path.is_file() and path.name not in given}
    assert {path.name for path in printed} >= {"report.md", "report.html", "headline.svg", "headline.png"}
    names = [
        line.split("](plots/")[1].rstrip(")")
        for line in (folders[0] / "report.md").read_text().splitlines()
        if "](plots/" in line
    ]
    assert sorted(names) == sorted(path.name for path in printed if path.suffix == ".svg" and path.parts[-3] == "one")


def test_report_is_the_same_each_time(tmp_path):
    """A report that changes without its results makes every commit touch it."""
    folder = made_up.write(tmp_path)
    assert cli.main(["report", str(folder), "--no-plots"]) == 0
    first = [(folder / name).read_bytes() for name in ("report.md", "report.html")]
    assert cli.main(["report", str(folder), "--no-plots"]) == 0
    assert [(folder / name).read_bytes() for name in ("report.md", "report.html")] == first
    assert not (folder / "plots").exists()


def test_report_of_a_wrong_folder_is_one_sentence_and_writes_nothing(tmp_path, capsys):
    """The first report would be written, and the typing error in the second found minutes later."""
    folder = made_up.write(tmp_path / "run")
    assert cli.main(["report", str(folder), str(tmp_path / "rnu"), "--no-plots"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "holds no results.json" in error
    assert not (folder / "report.html").exists()
    assert cli.main(["report", str(folder), "--prompts", "-1"]) == 2
    assert "--prompts: must be 0 or more" in capsys.readouterr().err


def test_report_loads_no_torch(tmp_path):
    """Tables from a file should not wait for a deep learning framework."""
    made_up.write(tmp_path)
    code = (
        "import sys\nfrom hf_ckt.cli.main import main\n"
        f"code = main(['report', {str(tmp_path)!r}, '--no-plots'])\n"
        "sys.exit(code or bool({'torch', 'transformers', 'matplotlib'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_report_writes_the_headline_scores_into_a_readme(tmp_path, capsys):
    """A table typed by hand drifts from its results file."""
    folder = made_up.write(tmp_path / "made_up")
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- evaluation -->\nold\n<!-- /evaluation -->\nafter\n")
    assert cli.main(["report", str(folder), "--readme", str(readme)]) == 0
    text = readme.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "\nold\n" not in text
    results = json.loads((folder / "results.json").read_text())
    value = results["models"]["base"]["scores"]["refusal_auroc"]["value"]
    assert f"{value:.3f}" in text and results["command"] in text and "not told from chance" in text
    assert cli.main(["report", str(folder), str(folder), "--readme", str(readme)]) == 2
    assert "takes one folder" in capsys.readouterr().err
