# SPDX-License-Identifier: Apache-2.0
"""How the probe of a base grows with its rows, on a tiny model."""

import importlib
import json

import numpy as np
import pytest

from hf_ckt.data import load_boundary_set
from hf_ckt.evaluation.probing.rows import probe_rows
from tests.examples.running import examples_importable, run_here


def test_probe_curve_has_a_fit_for_each_number_of_rows_and_copies(tiny_model_dir, tmp_path, monkeypatch, capsys):
    """A point of another number of rows than it says would bend the curve."""
    options = ["--model", str(tiny_model_dir), "--output-dir", str(tmp_path / "out")]
    options += ["--rows", "40", "80", "--copies", "0", "1"]
    run_here("boundary/boundary_probe_curve.py", *options, cwd=tmp_path)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    fits = results["fits"]
    assert [one["copies"] for one in fits] == [0, 1, 0, 1]
    # Twins stay together, so there may be a few more rows than were asked for.
    assert fits[0]["rows"] == fits[1]["rows"] and 40 <= fits[0]["rows"] < 80 <= fits[2]["rows"] < 90
    printed = capsys.readouterr().out
    for view in ("clean", "typos"):
        assert all(0 <= one[view]["low"] <= one[view]["value"] <= one[view]["high"] <= 1 for one in fits)
        assert f"{fits[3][view]['value']:.3f}" in printed
    assert (tmp_path / "out" / "curve.png").read_bytes().startswith(b"\x89PNG")
    # Started again, it reads and fits nothing.
    monkeypatch.setattr("hf_ckt.evaluation.probing.states.read_states", None)
    monkeypatch.setattr("hf_ckt.evaluation.probing.fitting.fit_logistic", None)
    for states in (tmp_path / "out").glob("*.npz"):
        states.unlink()
    run_here("boundary/boundary_probe_curve.py", *options, cwd=tmp_path)
    assert json.loads((tmp_path / "out" / "results.json").read_text())["fits"] == fits


def test_areas_compare_a_draw_of_typing_errors_with_itself_alone():
    """Prompts of one draw above those of another would count as told apart, or not, by chance."""
    with examples_importable():
        curve = importlib.import_module("boundary_probe_curve")
    rows = probe_rows(load_boundary_set("validation"), "boundary set", "data")
    harmful = np.array([row.harmful for row in rows])
    # Each draw lies higher than the one before by more than the sides are apart.
    scores = {f"validation/{draw}": harmful + 10.0 * draw for draw in range(curve.VALIDATION_DRAWS + 1)}
    assert curve.areas(scores, rows)["typos"]["value"] == 1.0
    scores["validation/1"] = -scores["validation/1"]
    found = curve.areas(scores, rows)
    assert found["clean"]["value"] == 1.0
    assert found["typos"]["value"] == pytest.approx(1 - 1 / curve.VALIDATION_DRAWS)
