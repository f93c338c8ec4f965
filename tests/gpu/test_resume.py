# SPDX-License-Identifier: Apache-2.0
"""A run that is cut off and resumed is the run that was not, to the last bit, where kernels are deterministic."""

import json

import pytest

from tests.processes import run_module

RUNS = [
    ("cpu", "float32"),
    *(pytest.param("cuda", precision, marks=pytest.mark.gpu) for precision in ("bf16", "fp16")),
]


@pytest.mark.parametrize(("device", "precision"), RUNS)
def test_resumed_run_equals_the_whole_one_under_deterministic_kernels(device, precision, tiny_model_dir, tmp_path):
    """Random state, queue, noise or loss scale that start anew after a kill make another run, and nothing says so."""
    # In a process of its own: the switch is for all of it, and cuBLAS reads its workspace when it is first used.
    # An operation that has no deterministic kernel raises here under its name.
    run_module("tests.gpu.resumed_run", device, precision, tiny_model_dir, tmp_path, CUBLAS_WORKSPACE_CONFIG=":4096:8")
    found = json.loads((tmp_path / "outcome.json").read_text())
    assert found["device"] == device and found["steps"] == 4
    assert found["different_weights"] == []
    assert found["resumed_logs"] == found["whole_logs"] and len(found["whole_logs"]) == 4
    assert found["queues_equal"]
    # And the comparison can fail: without the saved state the third step is another one.
    assert found["without_state_logs"][2]["contrastive_loss"] != found["whole_logs"][2]["contrastive_loss"]
