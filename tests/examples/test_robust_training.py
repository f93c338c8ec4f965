# SPDX-License-Identifier: Apache-2.0
"""The comparison of trainings under noise, for two steps on a tiny model."""

import json

import pytest

from tests.examples.running import run, run_here


@pytest.fixture(scope="module")
def robust(tiny_model_dir, tmp_path_factory):
    """Output folder and printed text of four trainings of two steps."""
    folder = tmp_path_factory.mktemp("robust")
    options = ["--model", str(tiny_model_dir), "--output_dir", str(folder / "out"), "--steps", "2"]
    options += ["--prompts", "2", "--new_tokens", "4", "--batch_size", "2"]
    return folder / "out", run("07_robust_training.py", *options, cwd=folder), options


def test_robust_training_compares_all_methods_on_corruptions_that_none_was_trained_on(robust):
    """A corruption that one method has seen in training would be measured as its robustness."""
    folder, printed, _ = robust
    results = json.loads((folder / "results.json").read_text())
    assert set(results["models"]) == {"base", "sft", "gaussian", "typos", "adversarial"}
    trained_on = {fields.get("perturbation") for fields in results["settings"]["methods"].values()}
    kinds = [*dict.fromkeys(row["corruption"] for row in results["prompts"] if row["corruption"])]
    assert len(kinds) == 6 and trained_on.isdisjoint(kinds)
    for name, model in results["models"].items():
        assert [cell["corruption"] for cell in model["noise"]] == ["", *sorted(kinds)]
        consistency = model["scores"]["token_consistency"]
        assert consistency["n"] == 4 and 0 < consistency["low"] <= consistency["value"] <= consistency["high"] <= 1
        assert f"{consistency['value']:.3f}" in printed
        assert ("sft" in model["against"]) == (name not in ("base", "sft"))
    assert (folder / "robustness.png").read_bytes().startswith(b"\x89PNG")


def test_robust_training_started_again_measures_nothing_twice(robust, tmp_path, capfd):
    """An hour of training that begins anew after a kill is not begun again."""
    folder, _, options = robust
    before = json.loads((folder / "results.json").read_text())
    run_here("07_robust_training.py", *options, cwd=tmp_path)
    bars = capfd.readouterr().err
    assert "batch/s" not in bars and "examples/s" not in bars  # none of an answer, none of a dataset
    assert json.loads((folder / "results.json").read_text()) == before
