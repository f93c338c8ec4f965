# SPDX-License-Identifier: Apache-2.0
"""Which perturbation a document draws, and how strong it is by now."""

import pytest
import torch

from hf_ckt.discovery import load_part
from hf_ckt.noise.mixture import Mixture
from hf_ckt.objective.schedules import Schedule
from tests.perturbations.batches import draw_document, packed, padded

PARTS = {name: load_part("perturbations", name)() for name in ("typos", "gaussian", "token_dropout")}
SHARES = {"typos": 0.5, "gaussian": 0.3, "token_dropout": 0.2}
DOCUMENTS = [draw_document(2 + seed % 9, seed) for seed in range(2000)]


def test_documents_draw_their_part_with_its_probability():
    """A study of half typing errors and half noise would be one of something else."""
    ids, documents, _ = padded(DOCUMENTS)
    choice = Mixture(PARTS, SHARES, {}).choose(ids, documents, seed=3)
    counts = torch.bincount(choice, minlength=3) / len(DOCUMENTS)
    # four standard deviations of a share of 2,000 draws
    for found, share in zip(counts.tolist(), SHARES.values(), strict=True):
        assert abs(found - share) < 4 * (share * (1 - share) / 2000) ** 0.5
    again = Mixture(PARTS, SHARES, {}).choose(ids, documents, seed=4)
    assert 0.3 < (again != choice).float().mean() < 0.9


def test_a_documents_part_is_the_same_wherever_it_stands():
    """Drawn by the place in a batch, it would change with the size of a GPU."""
    few = DOCUMENTS[:20]
    mixture = Mixture(PARTS, SHARES, {})
    choice = mixture.choose(*padded(few)[:2], seed=3)
    for layout in (padded(few, left=True, extra=3), packed(few)):
        assert torch.equal(mixture.choose(*layout[:2], seed=3)[:20], choice)
    assert len(set(choice.tolist())) == 3


def test_a_single_part_is_never_drawn_for():
    """A draw costs a pass over the ids in every step."""
    assert Mixture.of(PARTS["typos"]).choose(*padded(DOCUMENTS[:3])[:2], seed=1) is None


def test_severity_follows_its_schedule_and_the_part_itself_stays():
    """A part changed in place would start the next evaluation where training has got to."""
    mixture = Mixture(PARTS, SHARES, {"typos": Schedule(0.1, "linear", end=0.5)})
    assert [part.severity for part in mixture.at(0.5)] == pytest.approx([0.3, 1.0, 0.1])
    assert [part.severity for part in mixture.at(1.0)] == pytest.approx([0.5, 1.0, 0.1])
    assert PARTS["typos"].severity == 0.1
