# SPDX-License-Identifier: Apache-2.0
"""Runs that theory says are equal: how a batch is split, packed or chunked must not change what is learnt."""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch

from tests import runs

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def reference(tiny_model_dir, tmp_path_factory):
    """Outcome of one batch of 8 in one process, by role; trained once each."""

    @cache
    def outcome(role: str, **fields):
        return runs.train(tmp_path_factory.mktemp("reference"), tiny_model_dir, **runs.ROLES[role], **fields)

    return outcome


def check_equal(one: dict, two: dict) -> None:
    """Losses and weights agree to float32 rounding, and do not lean to one side."""
    for first, second in zip(one["logs"], two["logs"], strict=True):
        names = [name for name in first if name.endswith("_loss") or name in ("loss", "acceptance", "entropy")]
        for name in names:
            assert second[name] == pytest.approx(first[name], rel=2e-6, abs=2e-7), name
    difference = two["weights"] - one["weights"]
    assert difference.abs().max() < 2e-7
    # A dropped accumulation step or a wrong divisor shows as a one-sided shift long before it shows in the maximum.
    assert abs(difference.mean()) < 2e-9


@pytest.mark.parametrize("role", list(runs.ROLES))
def test_accumulated_batches_of_one_equal_one_batch_of_eight(role, reference, tiny_model_dir, tmp_path):
    """A mean of means would weigh the tokens of short answers more, and only on small GPUs."""
    split = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8}
    check_equal(reference(role), runs.train(tmp_path, tiny_model_dir, **runs.ROLES[role], **split))


@pytest.mark.parametrize("role", list(runs.ROLES))
def test_packed_equals_padded(role, reference, tiny_model_dir, tmp_path):
    """Noise scaled by the pack's length, or labels leaking over a boundary, would make packing another method."""
    packed = {"packing": True, "max_length": 2000, "per_device_train_batch_size": 1, "max_steps": 1}
    check_equal(reference(role, max_steps=1), runs.train(tmp_path, tiny_model_dir, **runs.ROLES[role], **packed))


@pytest.mark.parametrize("role", list(runs.ROLES))
def test_padding_free_equals_padded(role, reference, tiny_model_dir, tmp_path):
    """The same for batches that are flattened into one row."""
    check_equal(reference(role), runs.train(tmp_path, tiny_model_dir, **runs.ROLES[role], padding_free=True))


@pytest.mark.parametrize("chunk_size", [1, 7])
@pytest.mark.parametrize("role", list(runs.ROLES))
def test_chunk_size_changes_nothing(role, chunk_size, reference, tiny_model_dir, tmp_path):
    """A tile that overwrites instead of adding is right for exactly one chunk size."""
    check_equal(
        reference(role), runs.train(tmp_path, tiny_model_dir, **runs.ROLES[role], objective_chunk_size=chunk_size)
    )


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("role", ["consistency", "all"])
def test_checkpointing_changes_nothing(role, reentrant, reference, tiny_model_dir, tmp_path):
    """Recomputed activations must see the noise of the pass they stand for."""
    fields = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": reentrant}}
    check_equal(reference(role), runs.train(tmp_path, tiny_model_dir, **runs.ROLES[role], **fields))


TWO_PROCESSES = {
    **runs.ROLES,
    "recomputed": {**runs.ROLES["all"], "noisy_view_recompute": True},
    "batched": {**runs.ROLES["all"], "noisy_view_batched": True},
    # So small a part that a rank has none in some step.
    "a part": {**runs.ROLES["all"], "consistency_fraction": 0.2},
    "prompts": {**runs.ROLES["all"], "perturbation": "typos", "perturbation_severity": 0.4},
    "searched": {**runs.ROLES["all"], "perturbation": "adversarial", "perturbation_alpha": 1.0},
    "budget": {
        **runs.ROLES["all"],
        **{"consistency_every": 2, "consistency_budget": 0.05, "consistency_budget_rate": 0.5, "max_steps": 3},
    },
}


@pytest.fixture(scope="module")
def two_processes(tiny_model_dir, tmp_path_factory):
    """Outcomes of the same global batch over two gloo processes, by role."""
    folder = tmp_path_factory.mktemp("two_processes")
    shared = {"folder": str(folder / "out"), "model": str(tiny_model_dir), "per_device_train_batch_size": 4}
    job = {
        "runs": {role: {**shared, "ddp_backend": "gloo", **fields} for role, fields in TWO_PROCESSES.items()},
        "file": str(folder / "outcomes.pt"),
    }
    (folder / "job.json").write_text(json.dumps(job))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*command, "-m", "tests.runs", str(folder / "job.json")],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(job["file"], weights_only=True)


@pytest.mark.parametrize("run", list(TWO_PROCESSES))
def test_two_processes_equal_one(run, reference, two_processes, tiny_model_dir, tmp_path):
    """DDP averages gradients: a loss divided by the rank's own tokens would be off by the imbalance of the ranks."""
    fields = TWO_PROCESSES[run]
    one = reference(run) if run in runs.ROLES else runs.train(tmp_path, tiny_model_dir, **fields)
    check_equal(one, two_processes[run])


@pytest.mark.parametrize(
    "fields",
    [
        {"noisy_view_batched": True},
        {"noisy_view_recompute": True},
        {"noisy_view_recompute": True, "gradient_checkpointing": True},
        {"noisy_view_batched": True, "gradient_checkpointing": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("role", ["consistency", "all"])
def test_how_the_noisy_view_is_run_changes_nothing(role, fields, reference, tiny_model_dir, tmp_path):
    """One batch of both views, two passes, or one that is run again: a choice of time and memory, not of a method."""
    check_equal(reference(role), runs.train(tmp_path, tiny_model_dir, **runs.ROLES[role], **fields))


@pytest.mark.parametrize("fields", [{"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}, {}], ids=str)
def test_which_sequences_are_perturbed_depends_on_the_sequence_alone(fields, reference, tiny_model_dir, tmp_path):
    """A draw by place in the batch would perturb other texts when the same batch is split, and after a resume."""
    part = {"consistency_fraction": 0.5}
    whole = reference("all", **part)
    check_equal(whole, runs.train(tmp_path, tiny_model_dir, **runs.ROLES["all"], **part, **fields))
    assert abs(whole["logs"][0]["consistency_loss"] - reference("all")["logs"][0]["consistency_loss"]) > 1e-6
