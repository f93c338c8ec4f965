# SPDX-License-Identifier: Apache-2.0
"""Which roles are on, by what a run has."""

import pytest

from hf_ckt import ContrastiveRobustConfig
from hf_ckt.training.resolution import RunFacts, resolve_schedules
from tests.trainers import fields


def test_a_penalty_on_weights_is_off_or_refused_where_zero3_takes_them_apart(tmp_path):
    """Each process would square its own empty piece of the adapter: a penalty of 0 that holds nothing."""
    facts = RunFacts(has_teacher=True, has_adapters=True, has_reference=True, partitioned=True)
    assert "regularization" not in resolve_schedules(ContrastiveRobustConfig(str(tmp_path), **fields()), facts)
    weighted = ContrastiveRobustConfig(str(tmp_path), **fields(regularization_weight=0.1))
    with pytest.raises(ValueError, match=r"regularization_weight=0.1: adapter_l2 reads whole weights.*reference_kl"):
        resolve_schedules(weighted, facts)
    assert "regularization" in resolve_schedules(weighted, facts._replace(partitioned=False))
    other = ContrastiveRobustConfig(
        str(tmp_path), **fields(regularization_weight=0.1, regularization_loss="reference_kl")
    )
    assert "regularization" in resolve_schedules(other, facts)
