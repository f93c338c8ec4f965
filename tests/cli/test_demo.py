# SPDX-License-Identifier: Apache-2.0
"""`hf-ckt demo`: which run it starts; the run itself is tested in tests/examples/test_quickstart.py."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hf_ckt.cli import demo
from hf_ckt.cli.main import main

ROOT = Path(__file__).parents[2]


@pytest.fixture
def started(monkeypatch):
    """The options of the runs that are started, none of which is made."""
    from hf_ckt.demo import running

    found = []
    monkeypatch.setattr(running, "run_demo", found.append)
    return found


def test_demo_without_options_is_the_run_of_the_readme(started):
    """Another default would print another table than the README promises, and leave a run that was begun where it is."""
    assert demo.run([]) == 0
    known = json.loads((ROOT / "examples" / "results" / "quickstart.json").read_text(encoding="utf-8"))["settings"]
    (options,) = started
    asked = {name: str(value) for name, value in vars(options).items() if name not in ("output_dir", "restart")}
    assert asked == {name: value for name, value in known.items() if name not in ("dtype", "probe_rows", "recipe")}
    assert options.output_dir == Path("out/quickstart")


def test_demo_takes_the_steps_that_it_is_given(started):
    """A number that the recipe's own wins over would make every rehearsal a whole run."""
    assert main(["demo", "--teacher_steps", "2", "--student-steps", "3", "--batch-size", "4"]) == 0
    assert [started[0].teacher_steps, started[0].student_steps, started[0].batch_size] == [2, 3, 4]


@pytest.mark.parametrize("option", ["--teacher-steps", "--student-steps", "--batch-size", "--prompts", "--new-tokens"])
def test_demo_of_nothing_is_refused(option, started, capsys):
    """After minutes of training there would be nothing to show, and 0 steps would be epochs without end."""
    assert main(["demo", option, "0"]) == 2 and not started
    assert (
        capsys.readouterr().err == f"hf-ckt demo: error: {option}: must be 1 or more, got 0. Of none nothing comes.\n"
    )


def test_help_of_the_demo_imports_no_torch():
    """Its stages are to be read at once."""
    code = "import sys; from hf_ckt.cli.demo import run\ntry: run(['--help'])\nfinally: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and done.stdout.endswith("False\n") and "A teacher of refusals" in done.stdout
