# SPDX-License-Identifier: Apache-2.0
"""Two gloo processes with several teachers against one: also where a process hears one alone, or has no row for a role."""

from types import SimpleNamespace

import pytest
import torch

from tests.invariant import routed_ranks
from tests.processes import run_on_two


@pytest.fixture(scope="module")
def two(tiny_model_dir, tmp_path_factory):
    """Outcomes of both processes, in order of rank, and the teachers."""
    folder = tmp_path_factory.mktemp("two")
    teachers, sources = routed_ranks.save_sources(folder)
    run_on_two("tests.invariant.routed_ranks", folder, tiny_model_dir, sources)
    outcomes = [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    return SimpleNamespace(outcomes=outcomes, teachers=teachers)


@pytest.mark.parametrize("case", list(routed_ranks.CASES))
def test_two_processes_with_several_teachers_equal_one(case, two, tiny_model_dir, tmp_path):
    """A rank that divides by its own teachers' tokens, or makes another number of passes, is off or hangs."""
    one = routed_ranks.outcome(tmp_path, tiny_model_dir, two.teachers, case)
    found = two.outcomes[0][case]
    for mine, theirs in zip(found["logs"], one["logs"], strict=True):
        names = [name for name in theirs if "_loss" in name or name == "loss" or name.startswith("acceptance")]
        assert {name for name in mine if "/" in name} == {name for name in theirs if "/" in name} != set()
        for name in names:
            assert mine[name] == pytest.approx(theirs[name], rel=5e-6, abs=2e-7), name
    residual = []
    for name, value in one["moved"].items():
        torch.testing.assert_close(found["moved"][name], value, rtol=1e-4, atol=3e-7)
        assert torch.equal(found["moved"][name], two.outcomes[1][case]["moved"][name])
        residual.append((found["moved"][name] - value).flatten().double())
    assert max(value.abs().max() for value in one["moved"].values()) > 1e-4
    assert abs(torch.cat(residual).mean()) < 5e-9


@pytest.mark.parametrize("level", routed_ranks.LEVELS)
def test_two_processes_contrast_documents_as_two_micro_batches_do(level, two, tiny_model_dir, tmp_path):
    """Each process has the candidates of its own rows: the mean over them is that over micro-batches, and not of all rows."""
    halves = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    one = routed_ranks.documents(tmp_path / "halves", tiny_model_dir, two.teachers, level, **halves)
    found = two.outcomes[0][level]
    loss = found["logs"][0]["contrastive_loss"]
    assert loss == pytest.approx(one["logs"][0]["contrastive_loss"], rel=5e-6)
    for name, value in one["moved"].items():
        torch.testing.assert_close(found["moved"][name], value, rtol=1e-4, atol=3e-7)
        assert torch.equal(found["moved"][name], two.outcomes[1][level]["moved"][name])
    assert max(value.abs().max() for value in one["moved"].values()) > 1e-4
    whole = routed_ranks.documents(tmp_path / "whole", tiny_model_dir, two.teachers, level)
    assert whole["logs"][0]["contrastive_loss"] > 1.05 * loss  # more candidates


def test_rank_without_an_anchor_adds_nothing_to_the_contrast(two, tiny_model_dir, tmp_path):
    """Its term is left out, and the mean over ranks is half of the other's: no rank waits for it."""
    alone = routed_ranks.outcome(tmp_path, tiny_model_dir, two.teachers, "contrast", rows=4, max_steps=1)
    found = two.outcomes[0]["contrast"]
    assert found["logs"][0]["contrastive_loss"] == pytest.approx(alone["logs"][0]["contrastive_loss"], rel=1e-6)
    for name, value in alone["moved"].items():
        torch.testing.assert_close(2 * found["moved"][name], value, rtol=1e-4, atol=3e-7)


@pytest.mark.parametrize("names", [routed_ranks.APART, routed_ranks.NAMES], ids=["one teacher a rank", "mixed"])
def test_two_processes_weigh_as_two_micro_batches_of_one_do(names, two, tiny_model_dir, tmp_path):
    """Weights have mean 1 on each rank: where one waited for the other's, or counted its tokens, the two would differ."""
    halves = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    one = routed_ranks.weighed(tmp_path / "one", tiny_model_dir, two.teachers, names, **halves)
    found = two.outcomes[0][f"weighed {len(set(names))}"]
    for mine, theirs in zip(found["logs"], one["logs"], strict=True):
        for name in ("loss", "task_loss", "distillation_loss"):
            assert mine[name] == pytest.approx(theirs[name], rel=5e-6), name
    for name, value in one["moved"].items():
        torch.testing.assert_close(found["moved"][name], value, rtol=1e-4, atol=3e-7)
    plain = routed_ranks.weighed(
        tmp_path / "two", tiny_model_dir, two.teachers, names, **halves, task_token_weights="uniform"
    )
    assert plain["logs"][0]["task_loss"] != pytest.approx(one["logs"][0]["task_loss"], rel=1e-4)
