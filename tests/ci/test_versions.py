# SPDX-License-Identifier: Apache-2.0
"""What `make test-versions` does around the environments and the test runs themselves, which take minutes each."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / ".ci" / "versions.py"


@pytest.fixture(scope="module")
def versions():
    """The script as a module: its folder is no package."""
    spec = importlib.util.spec_from_file_location("ci_versions", SCRIPT)
    module = sys.modules["ci_versions"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["ci_versions"]


@pytest.fixture
def no_environment(versions, monkeypatch, tmp_path):
    """Makes every set fail at its environment, and keeps what is made out of the repository."""

    def refuse(*_):
        raise versions.CannotBeMade("No matching distribution found for torch==2.13.0")

    monkeypatch.setattr(versions, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(versions, "find_python", lambda version: Path(sys.executable))
    monkeypatch.setattr(versions, "make_environment", refuse)


def ran(name: str, **changes) -> dict:
    row = {"set": name, "versions": {"python": "3.12.1", "torch": "2.13.0+cpu"}, "not_made": [], "log": "x.log"}
    return {**row, "passed": 30, "failed": 0, "skipped": 4, "status": 0, "seconds": 61, **changes}


def test_a_sets_versions_take_the_place_of_the_pinned_ones(versions):
    """Two pins of one package have no solution, and `huggingface_hub` is `huggingface-hub`."""
    text = "# why\nfsspec==2026.9.0\nhuggingface-hub==2.4.0\nnumpy==2.4.6\n\ntransformers==5.23.0\n"
    pins = {"huggingface-hub": "1.33.0", "transformers": "5.17.0", "triton": "3.6.0"}
    expected = "huggingface-hub==1.33.0\nnumpy==2.4.6\ntransformers==5.17.0\ntriton==3.6.0\n"
    assert versions.derived_constraints(text, pins, ["fsspec"]) == expected
    assert versions.derived_constraints("huggingface_hub==2.4.0\n", {"huggingface-hub": "1"}) == "huggingface-hub==1\n"


def test_the_lowest_set_pins_every_lower_bound_but_torchs(versions):
    """A bound that the set leaves out would say that it was run and was not."""
    pyproject = '[project]\ndependencies = ["trl>=1.16,<2", "huggingface_hub>=1.5", "torch>=2.11"]\n'
    lowest = next(chosen for chosen in versions.SETS if chosen.at_lower_bounds)
    assert lowest.pins(pyproject) == {"trl": "1.16", "huggingface-hub": "1.5"}


def test_every_version_of_a_set_is_one_that_the_package_accepts(versions):
    """A set outside pyproject's ranges fails at its installation, minutes after it was asked for."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    project = versions.tomllib.loads(text)["project"]
    accepted = {canonicalize_name(r.name): r.specifier for r in map(Requirement, project["dependencies"])}
    bounds = versions.lower_bounds(text)
    assert set(bounds) == set(accepted)  # each has a lower bound, in the form that is read
    for chosen in versions.SETS:
        for name, version in chosen.pins(text).items():
            assert version in accepted[name], (chosen.name, name)
        for python, torch in chosen.builds:
            assert torch in accepted["torch"]
            assert python in versions_of(project["requires-python"])


def versions_of(requires_python: str):
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(requires_python)


def test_environments_hold_the_wheels_that_the_makefile_installs(versions):
    """Tests that need a wheel would skip in every set, or run on another version of it, and the table would not say so."""
    from hf_ckt.evaluation.judges import encoder
    from hf_ckt.models import embedded

    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert sorted(versions.WHEELS) == sorted(re.findall(r"--no-deps ([\w.-]+==[\w.]+)", makefile))
    assert {*versions.WHEELS} == {encoder.WHEEL, embedded.WHEEL}


def test_counts_are_read_from_junit(versions, tmp_path):
    """An error in a fixture is no pass, and with pytest-xdist several suites may stand in one file."""
    report = tmp_path / "junit.xml"
    suite = '<testsuite tests="{}" failures="{}" errors="{}" skipped="{}"/>'
    report.write_text(f"<testsuites>{suite.format(10, 1, 2, 3)}{suite.format(5, 0, 0, 1)}</testsuites>")
    assert versions.read_junit(report) == {"passed": 8, "failed": 3, "skipped": 4}


def test_counts_agree_with_pytests_own(versions, tmp_path):
    """pytest writes the file; should it change its form, this is where it shows."""
    tests = tmp_path / "test_four.py"
    tests.write_text(
        "import pytest\n"
        "def test_a(): pass\n"
        "def test_b(): assert False\n"
        "@pytest.mark.skip\ndef test_c(): pass\n"
        "def test_d(missing_fixture): pass\n"
    )
    report = tmp_path / "junit.xml"
    command = [sys.executable, "-m", "pytest", "-c", str(tmp_path / "none.ini"), "--rootdir", str(tmp_path)]
    (tmp_path / "none.ini").write_text("[pytest]\n")
    subprocess.run([*command, f"--junitxml={report}", "-p", "no:cacheprovider", str(tests)], capture_output=True)
    assert versions.read_junit(report) == {"passed": 1, "failed": 2, "skipped": 1}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"failed": 1, "status": 1}, False),
        ({"passed": 0, "skipped": 0, "status": 5}, False),  # no test was found
        ({"status": 3}, False),  # pytest broke off after the file was written
        ({"passed": 0}, False),  # all were skipped
    ],
)
def test_a_set_succeeds_only_when_tests_ran_and_none_failed(versions, changes, expected):
    """An interrupted or empty run has no failures either."""
    assert versions.succeeded(ran("newest", **changes)) is expected


def test_table_shows_versions_and_counts_and_says_what_is_wrong(versions):
    """A set that did not run must not look like one that ran without failures."""
    rows = [
        ran("gpu image", not_made=["Python 3.12, torch 2.11.0: no Python 3.12"]),
        ran("newest", failed=2, status=1),
        {"set": "lowest", "cannot_be_made": "Python 3.11, torch 2.13.0: No matching distribution"},
    ]
    lines = versions.table(rows).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[:5]]
    assert len({len(line) for line in lines[:5]}) == 1
    assert cells[0][:3] == ["set", "Python", "torch"]
    assert cells[2][:4] == ["gpu image", "3.12.1", "2.13.0+cpu", "-"]
    assert cells[2][-4:] == ["30", "0", "4", "61"]
    assert cells[3][-3] == "2"
    assert set(cells[4][1:]) == {"-"}
    assert lines[6:] == [
        "gpu image was wanted with another build. Python 3.12, torch 2.11.0: no Python 3.12",
        "newest did not pass: pytest ended with status 1, see x.log",
        "lowest could not be made. Python 3.11, torch 2.13.0: No matching distribution",
    ]


def test_a_set_that_cannot_be_made_is_a_row_and_not_a_traceback(versions, no_environment, capsys, tmp_path):
    """One missing version must not keep the other sets from running, and must not pass for success."""
    results = tmp_path / "results.json"
    assert versions.main(["--json", str(results)]) == 1
    printed = capsys.readouterr().out
    for chosen in versions.SETS:
        assert f"{chosen.name} could not be made. Python {chosen.builds[0][0]}, torch" in printed
    assert json.loads(results.read_text()) == []


def test_a_python_that_is_not_there_is_said(versions, monkeypatch, capsys, tmp_path):
    """The interpreters that the sets name are not on every machine."""
    monkeypatch.setattr(versions, "CACHE", tmp_path)
    monkeypatch.setattr(versions, "write_results", lambda *_: None)
    assert versions.main(["--set", "newest", "--python", str(tmp_path / "python")]) == 1
    assert f"no Python at {tmp_path / 'python'}" in capsys.readouterr().out
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    with pytest.raises(versions.CannotBeMade, match=r"no Python 3\.99"):
        versions.find_python("3.99")


def test_the_first_build_that_can_be_made_is_run(versions, no_environment, monkeypatch):
    """What was run instead of what was wanted must be told with its reason."""

    def make(folder, python, constraints, torch, with_cuda):
        if torch == "2.11.0":
            raise versions.CannotBeMade("this torch comes with 17 packages of CUDA (--cuda allows them)")
        assert f"torch=={torch}\n" in constraints
        return python

    monkeypatch.setattr(versions, "make_environment", make)
    chosen = versions.VersionSet("x y", builds=(("3.12", "2.11.0"), ("3.12", "2.13.0"), ("3.11", "2.13.0")))
    interpreter, folder, reasons = versions.build(chosen, None, False)
    assert (interpreter, folder.name) == (Path(sys.executable), "x-y-3.12-2.13.0")
    assert reasons == ["Python 3.12, torch 2.11.0: this torch comes with 17 packages of CUDA (--cuda allows them)"]


def test_torch_with_cuda_is_recognized_by_what_it_brings(versions):
    """A few gigabytes would be downloaded before anybody sees that the build is not the one for the CPU."""
    names = ["torch", "nvidia_cublas", "cuda-toolkit", "sympy"]
    report = json.dumps({"install": [{"metadata": {"name": name}} for name in names]})
    assert versions.gpu_packages(report) == ["cuda-toolkit", "nvidia-cublas"]


def test_pips_reason_is_found_among_its_lines(versions):
    """Its last lines are advice; the reason stands before them."""
    text = (
        "WARNING: something\nERROR: Could not find a version that satisfies the requirement torch==9 (from: 1)\n"
        "ERROR: No matching distribution found for torch==9\n[notice] A new release of pip is available\n"
    )
    assert versions.last_error(text) == "No matching distribution found for torch==9"
    conflict = (
        "ERROR: Cannot install a and b because these package versions have conflicting dependencies.\n\n"
        "The conflict is caused by:\n    a 1 depends on c>=2\n    The user requested (constraint) c==1\n\n"
        "To fix this you could try to:\n"
    )
    assert versions.last_error(conflict) == "conflict: a 1 depends on c>=2, The user requested (constraint) c==1"
    assert versions.last_error("Traceback\nValueError: x\n") == "ValueError: x"
    assert versions.last_error("") == "no output"


def test_results_of_one_set_leave_the_others_in_their_file(versions, tmp_path):
    """`--set newest` would otherwise throw away what the other sets were measured to be."""
    path = tmp_path / "versions.json"
    versions.write_results(path, [ran("newest"), ran("lowest")])
    missing = {"set": "lowest", "cannot_be_made": "no Python 3.11"}
    versions.write_results(path, [ran("newest", passed=31), missing])
    rows = json.loads(path.read_text())
    assert [(row["set"], row["passed"]) for row in rows] == [("lowest", 30), ("newest", 31)]
    assert all("log" not in row for row in rows)  # a path of one machine
    assert [file.name for file in tmp_path.iterdir()] == ["versions.json"]


def test_only_a_run_of_the_whole_suite_is_written_unasked(versions):
    """`PYTEST_ARGS="-m 'not slow'"` would otherwise replace the results that the bounds rest on."""
    assert versions.parse(["--workers", "1", "--"]).json == versions.RESULTS
    partial = versions.parse(["--set", "newest", "--", "-m", "not slow"])
    assert partial.json is None
    assert (partial.set, partial.pytest_args) == (["newest"], ["-m", "not slow"])


def test_an_environment_is_made_again_only_when_what_it_is_made_of_changed(versions, monkeypatch, tmp_path):
    """Minutes of installation for nothing, or a run on what is no longer asked for."""
    commands = []

    def record(command, **_):
        commands.append(command)
        return json.dumps({"install": []})

    monkeypatch.setattr(versions, "checked", record)
    monkeypatch.setattr(versions, "WHEELS", ("--version",))

    def make(text: str) -> Path:
        return versions.make_environment(tmp_path / "x", Path(sys.executable), text, "2.13.0", False)

    with monkeypatch.context() as patch:
        patch.setattr(
            versions.subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 0, "3", "")
        )
        make("trl==1.16.0\n")
        first = len(commands)
        assert first > 0
        assert make("trl==1.16.0\n") == tmp_path / "x" / "bin" / "python"
        assert len(commands) == first
        make("trl==1.17.0\n")
        assert len(commands) == 2 * first
    assert (tmp_path / "x" / "constraints.txt").read_text() == "trl==1.17.0\n"


def test_page_shows_the_results_file(versions, tmp_path):
    """A table that is typed by hand goes on to claim what an older run found."""
    page = tmp_path / "limits.md"
    committed = (ROOT / "docs" / "limits.md").read_text(encoding="utf-8")
    page.write_text(committed, encoding="utf-8")
    versions.write_page(page, json.loads((ROOT / ".ci" / "versions.json").read_text(encoding="utf-8")))
    assert page.read_text(encoding="utf-8") == committed
    versions.write_page(page, [ran("newest", passed=31)])
    assert "| 31 " in page.read_text(encoding="utf-8") and "## Security" in page.read_text(encoding="utf-8")
