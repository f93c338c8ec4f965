# SPDX-License-Identifier: Apache-2.0
"""Runs that theory says are equal, under every perturbation: how a batch is split, padded or packed."""

from functools import cache

import pytest

from hf_ckt.discovery import part_names
from tests import runs
from tests.invariant.test_equal_runs import check_equal

EACH = part_names("perturbations")
MIXTURE = {"typos": 0.25, "token_dropout": 0.25, "gaussian": 0.25, "adversarial": 0.25}
CASES = {
    **{name: {"perturbation": name} for name in EACH},
    "mixture": {"perturbation": MIXTURE, "perturbation_settings": {"typos": {"severity": 0.4}}},
}
# Prompts of seven words: at the default of a tenth, many would stay as they are.
STRONG = {name: {"perturbation_severity": 0.4} for name in CASES if name not in ("mixture", "adversarial")}


def fields(case: str, **changes) -> dict:
    return {**runs.ROLES["all"], **CASES[case], **STRONG.get(case, {}), **changes}


@pytest.fixture(scope="module")
def reference(tiny_model_dir, tmp_path_factory):
    """Outcome of one batch of 8 in one process, by case; trained once each."""

    @cache
    def outcome(case: str, **changes):
        return runs.train(tmp_path_factory.mktemp("reference"), tiny_model_dir, **fields(case, **changes))

    return outcome


@pytest.mark.parametrize("case", list(CASES))
def test_perturbation_changes_the_noisy_view(case, reference):
    """A perturbation that finds no text to change would pass every test of equality."""
    first = reference(case)["logs"][0]
    assert first["consistency_loss"] > 1e-4


@pytest.mark.parametrize("case", list(CASES))
def test_accumulated_batches_equal_one_batch(case, reference, tiny_model_dir, tmp_path):
    """Noise drawn by the place in a batch would be other noise on a smaller GPU."""
    split = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
    check_equal(reference(case), runs.train(tmp_path, tiny_model_dir, **fields(case, **split)))


@pytest.mark.parametrize("case", list(CASES))
def test_padding_free_equals_padded(case, reference, tiny_model_dir, tmp_path):
    """Two views of different length, each flattened into one row: their kept tokens must still be neighbours."""
    check_equal(reference(case), runs.train(tmp_path, tiny_model_dir, **fields(case, padding_free=True)))


@pytest.mark.parametrize("case", list(CASES))
def test_packed_equals_padded(case, reference, tiny_model_dir, tmp_path):
    """Noise scaled by the pack and not by the text, or a text looked up by its pack, would make packing a method."""
    packed = {"packing": True, "max_length": 2000, "per_device_train_batch_size": 1, "max_steps": 1}
    check_equal(reference(case, max_steps=1), runs.train(tmp_path, tiny_model_dir, **fields(case, **packed)))
