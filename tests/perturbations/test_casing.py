# SPDX-License-Identifier: Apache-2.0
"""Letters in the wrong case."""

import string
from random import Random

from hf_ckt.perturbations.casing import CasingPerturbation
from tests.perturbations.counting import changed_letters

UNIT = "letters"
measure = changed_letters


def test_casing_at_full_severity_swaps_every_case():
    """A letter that never changes, or that a second draw changes back, lowers the severity."""
    for text in (string.printable, "How do I bake Bread?", "ÄÖü Щи Ωμ"):
        assert CasingPerturbation(severity=1.0).apply(text, Random(0)) == text.swapcase()


def test_casing_changes_letters_of_two_cases_alone_and_keeps_the_length():
    """The sharp s would become two letters, and a share of letters that have one case would change nothing."""
    text = "ßa你b 1c"
    assert CasingPerturbation(severity=1.0).apply(text, Random(0)) == "ßA你B 1C"
    # A third of a, b and c, not of five letters and a digit.
    outputs = {CasingPerturbation(severity=1 / 3).apply(text, Random(seed)) for seed in range(50)}
    assert outputs == {"ßA你b 1c", "ßa你B 1c", "ßa你b 1C"}
