# SPDX-License-Identifier: Apache-2.0
"""The benchmarks' page is written from results files."""

import json
import shlex
from pathlib import Path

import pytest

import objective
import step
from cases import OBJECTIVE_CASES, PRECISIONS
from page import _MARKER, LOSING, block_text, command_of, write_page
from tests.examples.benchmarks import documents

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "examples" / "benchmarks" / "README.md"
RESULTS = PAGE.parent / "results"
NAMES = _MARKER.findall(PAGE.read_text(encoding="utf-8"))


def _page(folder, *names):
    (folder / "results").mkdir(exist_ok=True)
    path = folder / "README.md"
    blocks = [f"<!-- bench:{name} -->\nSTALE\n<!-- /bench:{name} -->" for name in names]
    path.write_text("\n\n".join(["words of mine", *blocks, "more words"]) + "\n")
    return path


@pytest.mark.parametrize("name", NAMES)
def test_committed_page_holds_what_the_results_files_say(name):
    """A number typed by hand, or left from an older run, survives the run that disproves it."""
    text = PAGE.read_text(encoding="utf-8")
    block = block_text(name, RESULTS, PAGE.parent)
    assert f"<!-- bench:{name} -->\n{block}\n<!-- /bench:{name} -->" in text, "run: python examples/benchmarks/page.py"


def test_committed_page_shows_every_results_file():
    """A result that is not shown is one that was not liked."""
    assert {path.stem for path in RESULTS.glob("*.json")} <= {*NAMES}
    assert LOSING in NAMES and {*OBJECTIVE_CASES} <= {*NAMES}


def test_page_fills_the_block_and_leaves_the_words(tmp_path):
    """The words around a table are written by hand and must outlive it."""
    page = _page(tmp_path, "objective_smollm2", LOSING)
    (tmp_path / "results" / "objective_smollm2.json").write_text(json.dumps(documents.objective()))
    (tmp_path / "results" / "objective_smollm2.png").touch()
    write_page(page, tmp_path / "results")
    text = page.read_text()
    assert text.startswith("words of mine\n") and text.endswith("\nmore words\n") and "STALE" not in text
    assert "| hf_ckt / trl | time | 0.300 | at most 0.22 | missed |" in text
    assert "](results/objective_smollm2.png)" in text
    assert "From `results/objective_smollm2.json`." in text
    assert "| objective_smollm2 | hf_ckt / trl | time | 0.300 | at most 0.22, missed |" in text
    write_page(page, tmp_path / "results")
    assert page.read_text() == text


@pytest.mark.parametrize(
    ("name", "document", "row"),
    [
        ("growth", documents.growth(), "| tokens N | 64 | 256 | hf_ckt | 1.00 | 0.00 |"),
        ("step_fp32", documents.step(), "| 2.26 |"),
        ("step_fp32_cuda", documents.step(), "| 2.26 |"),
        ("profile_8b", documents.profile(), "| forward | 100.0 | 50% |"),
        ("profile_8b", documents.profile(), "| `gemm` | 12 | 80.0 | 50.0% |"),
        ("profile_8b", documents.profile(), "| `hf_ckt/views.py:1 read` | 3 |"),
        ("fit_check_24gb", documents.fit_check(), "| 17,152 | 15,424 | 0.899 | 15,488 | 22.50 | 21.25 |"),
        ("gpu_tests", documents.gpu_tests(), "| 2 | 1 | 0 | 61 | tests.gpu.one |"),
        ("demo_cuda", documents.demo(), "| safety S: harmful refused (more is better) | 0.0"),
    ],
)
def test_page_has_tables_of_the_other_kinds(name, document, row, tmp_path):
    """A kind without a table would be measured for nothing."""
    (tmp_path / f"{name}.json").write_text(json.dumps(document))
    block = block_text(name, tmp_path, tmp_path)
    assert row in block and "On A Processor, 2 threads" in block


def test_page_says_not_measured_with_the_command(tmp_path):
    """An empty place looks like nothing to see, and a reader with the machine cannot fill it."""
    page = _page(tmp_path, "objective_8b")
    write_page(page, tmp_path / "results")
    command = (
        "python examples/benchmarks/objective.py --tokens 8192 --hidden 4096 --vocab 151936 --dtype bfloat16 --device cuda "
        "--json examples/benchmarks/results/objective_8b.json"
    )
    assert f"Not measured. To do it: `{command}`." in page.read_text()


def test_page_with_an_unknown_name_raises_and_is_left_alone(tmp_path):
    """A misspelt marker would say 'not measured' for ever."""
    page = _page(tmp_path, "growth", "objektive")
    before = page.read_text()
    with pytest.raises(ValueError, match="bench:objektive: is no benchmark's name"):
        write_page(page, tmp_path / "results")
    assert page.read_text() == before


def test_page_without_markers_raises(tmp_path):
    """A page whose markers were lost would silently stay as it is."""
    with pytest.raises(ValueError, match="has no marker"):
        write_page(_page(tmp_path), tmp_path / "results")


@pytest.mark.parametrize("name", [*OBJECTIVE_CASES, "growth"])
def test_objective_command_measures_the_case_of_that_name(name, monkeypatch):
    """A command that measures something else fills the place with the wrong figures."""
    seen = {}
    monkeypatch.setattr("measure_objective.run_objective", lambda case, **more: seen.update(case=case, **more) or 0)
    arguments = shlex.split(command_of(name))
    assert arguments[:2] == ["python", "examples/benchmarks/objective.py"]
    assert objective.run(arguments[2:]) == 0
    assert seen["growth"] == (name == "growth")
    assert name == "growth" or seen["case"] == OBJECTIVE_CASES[name]
    assert seen["json"] == Path(f"examples/benchmarks/results/{name}.json")


@pytest.mark.parametrize(
    "name", [*(f"step_{one}" for one in PRECISIONS), "step_nf4_checkpointing", "step_fp32_cuda", "step_8b"]
)
def test_step_command_parses(name):
    """A command that was renamed since would be found broken by whoever has the machine."""
    case = step.case_of(step._parser().parse_args(shlex.split(command_of(name))[2:]))
    assert case.precision in name or name == "step_8b"
    assert case.gradient_checkpointing == name.endswith(("checkpointing", "8b"))
