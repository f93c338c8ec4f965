# SPDX-License-Identifier: Apache-2.0
"""Reference KL. What the contracts do not hold already."""

from hf_ckt.losses.reference_kl import ReferenceKLLoss


def test_reference_kl_reads_the_base_and_not_the_teacher():
    """Read from the teacher, the term would be a second distillation and nothing would hold the base's knowledge."""
    assert ReferenceKLLoss().needs == {"reference", "student"}
