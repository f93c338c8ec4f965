# SPDX-License-Identifier: Apache-2.0
"""Tokens replaced by any other."""

from collections import Counter
from random import Random

from hf_ckt.perturbations.token_replacement import TokenReplacementPerturbation


def test_token_replacement_keeps_every_place_at_full_severity():
    """A dropped token shifts the positions of all after it, which is the other perturbation."""
    edits = TokenReplacementPerturbation(severity=1.0).edits(range(10, 30), range(100, 200), Random(0))
    assert list(edits) == list(range(10, 30)) and None not in edits.values()


def test_token_replacement_draws_evenly_from_the_whole_vocabulary():
    """Ids of one end of a vocabulary are rare words or single bytes: another perturbation than documented."""
    vocabulary, draws = list(range(500, 540)), 8000
    edits = TokenReplacementPerturbation(severity=1.0).edits(range(draws), vocabulary, Random(0))
    counts = Counter(edits.values())
    assert sorted(counts) == vocabulary
    expected = draws / len(vocabulary)
    chi_square = sum((count - expected) ** 2 / expected for count in counts.values())
    assert chi_square < 72.05  # 39 degrees of freedom: exceeded once in a thousand
