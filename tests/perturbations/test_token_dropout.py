# SPDX-License-Identifier: Apache-2.0
"""Tokens left out."""

from random import Random

from hf_ckt.perturbations.token_dropout import TokenDropoutPerturbation


def test_token_dropout_only_drops():
    """A token that is replaced keeps the positions of all after it, which is the other perturbation."""
    edits = TokenDropoutPerturbation(severity=0.5).edits(range(10, 30), range(100), Random(0))
    assert len(edits) == 10 and set(edits.values()) == {None}


def test_token_dropout_at_full_severity_leaves_any_one_token():
    """Were it always the first, the student would learn to answer from that."""
    offered = {3, 5, 8}
    left = [
        offered - TokenDropoutPerturbation(severity=1.0).edits(sorted(offered), [], Random(i)).keys()
        for i in range(99)
    ]
    assert all(len(tokens) == 1 for tokens in left) and set().union(*left) == offered
