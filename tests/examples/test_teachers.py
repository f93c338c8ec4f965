# SPDX-License-Identifier: Apache-2.0
"""The measurement of each kind of teacher, for three steps on a tiny model."""

import json

import pytest

from tests.examples.running import run, run_here


def test_teachers_are_measured_each_in_a_run_of_its_own(tiny_model_dir, tmp_path, capsys):
    """A kind that stops loading would be missed in a table that leaves it out."""
    options = ["--model", str(tiny_model_dir), "--output-dir", "out", "--steps", "3", "--first-steps", "2"]
    kinds = ["none", "model", "adapter", "routed", "cache", "top-k"]
    printed = run("04_teachers.py", *options, "--batch-size", "2", "--kinds", *kinds, cwd=tmp_path)
    results = json.loads((tmp_path / "out" / "teachers.json").read_text())
    measured = {one["kind"]: one for one in results["measured"]}
    assert sorted(measured) == sorted(kinds) and all(f"| {kind} |" in printed for kind in kinds)
    # One teacher, held in three ways: what the student hears is the same, up to the dtype that states are kept in.
    first = [measured[kind]["acceptance"]["first"] for kind in ("model", "adapter", "cache")]
    assert first == pytest.approx([first[0]] * 3, abs=2e-3) and 0 < first[0] < 1
    assert {"distillation_loss/safety", "distillation_loss/base"} & measured["routed"].keys()
    # Started again, nothing is run again.
    capsys.readouterr()
    run_here("04_teachers.py", *options, "--kinds", "model", cwd=tmp_path)
    assert "the first adapter" not in capsys.readouterr().out.split("| teacher |")[0]
