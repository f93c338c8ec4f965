# SPDX-License-Identifier: Apache-2.0
"""Every token alike. `reference` is the formula of its docstring; the contracts compare against it."""

from hf_ckt.training.config import ContrastiveRobustConfig


def reference(row: dict[str, list[float]], label: int, position: int) -> float:
    return 1.0


def test_uniform_is_the_default_and_no_weighting_is_built(tmp_path):
    """A factor of 1 multiplied in changes the last bit, and costs what it does not give."""
    args = ContrastiveRobustConfig(str(tmp_path), use_cpu=True, bf16=False)
    assert args.task_token_weights == args.distillation_token_weights == "uniform"
    assert args.token_weights == {} and not args.changes_task
