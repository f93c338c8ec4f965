# SPDX-License-Identifier: Apache-2.0
"""Reference KL. `reference` is the formula of its docstring; the contracts compare against it."""

from hf_ckt.losses.reference_kl import ReferenceKLLoss
from tests.losses.loops import kl, softmax

MOVES_TARGET = False


def reference(target: list[float], prediction: list[float], temperature: float = 1.0) -> float:
    p, q = softmax(target, temperature), softmax(prediction, temperature)
    return temperature**2 * kl(p, q)


def test_reference_kl_reads_the_base_and_not_the_teacher():
    """Read from the teacher, the term would be a second distillation and nothing would hold the base's knowledge."""
    assert ReferenceKLLoss().needs == {"reference", "student"}
