# SPDX-License-Identifier: Apache-2.0
"""What every random noise on the embeddings keeps, whatever its file."""

import copy
import pickle

import pytest
import torch

from hf_ckt.discovery import load_part, part_names
from hf_ckt.perturbations.base import EmbeddingNoise, document_uniform
from tests.contracts.documentation import check_documentation
from tests.contracts.settings import check_wrong_settings_raise
from tests.perturbations.batches import draw_document, packed, padded

NAMES = [name for name in part_names("perturbations") if issubclass(load_part("perturbations", name), EmbeddingNoise)]
each_perturbation = pytest.mark.parametrize("name", NAMES)
WIDTH = 16
DOCUMENTS = [draw_document(length, seed) for seed, length in enumerate((7, 12, 3))]


@each_perturbation
def test_perturbation_of_severity_zero_changes_nothing(name):
    """The first step of a severity schedule, and the control run of every study."""
    ids, documents, _ = padded(DOCUMENTS)
    assert load_part("perturbations", name)(severity=0.0).noise(ids, documents, WIDTH, 1).count_nonzero() == 0


@each_perturbation
@pytest.mark.parametrize("left", [True, False])
def test_perturbation_leaves_padding_alone(name, left):
    """Noise on padding is harmless until a model without a mask reads it, and then depends on the batch."""
    ids, documents, places = padded(DOCUMENTS, left=left, extra=4)
    noise = load_part("perturbations", name)().noise(ids, documents, WIDTH, 1)
    for row, place in places:
        assert (noise[row, place] != 0).all()
        noise[row, place] = 0
    assert noise.count_nonzero() == 0


@each_perturbation
def test_document_gets_the_same_noise_wherever_it_stands(name):
    """Noise that depends on padding, packing or neighbours makes runs differ that ought to be equal."""
    perturbation = load_part("perturbations", name)()
    alone = [perturbation.noise(*padded([document])[:2], WIDTH, 5)[0] for document in DOCUMENTS]
    order = [2, 0, 1]
    moved = [DOCUMENTS[i] for i in order]
    layouts = {
        "right padding": padded(moved),
        "more padding": padded(moved, extra=9),
        "left padding": padded(moved, left=True),
        "packed": packed(moved),
        "packed beside another": packed([draw_document(5, 99), *moved]),
    }
    for layout, (ids, documents, places) in layouts.items():
        noise = perturbation.noise(ids, documents, WIDTH, 5)
        for i, (row, place) in zip(order, places[-3:], strict=True):
            assert torch.equal(noise[row, place], alone[i]), layout


@each_perturbation
def test_noise_differs_between_seeds_and_documents(name):
    """The same noise at every step is a fixed shift that the model learns to undo."""
    perturbation = load_part("perturbations", name)()
    ids, documents, _ = padded([draw_document(20, 1), draw_document(20, 2)])
    # A step's seed is the run's seed in the high half and the step in the low one: their roles may not be exchanged.
    seeds = [0, 1, 2, 1 << 32, 2 << 32, (1 << 32) + 2, (2 << 32) + 1, (42 << 32) + 42]
    draws = [perturbation.noise(ids, documents, WIDTH, seed) for seed in seeds]
    rows = torch.stack([draw.flatten(1) for draw in draws]).flatten(0, 1)  # (seeds * documents, T * D)
    correlations = torch.corrcoef(rows).fill_diagonal_(0)
    assert correlations.abs().max() < 5 / rows.shape[1] ** 0.5


@each_perturbation
def test_noise_is_the_same_when_drawn_again_and_ignores_the_global_generator(name):
    """A resumed run, and a recomputation under gradient checkpointing, must see the noise of the first time."""
    perturbation = load_part("perturbations", name)()
    ids, documents, _ = padded(DOCUMENTS)
    torch.manual_seed(0)
    first, state = perturbation.noise(ids, documents, WIDTH, 3), torch.get_rng_state()
    torch.manual_seed(1)
    assert torch.equal(perturbation.noise(ids, documents, WIDTH, 3), first)
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), state)
    for again in (copy.deepcopy(perturbation), pickle.loads(pickle.dumps(perturbation))):
        assert torch.equal(again.noise(ids, documents, WIDTH, 3), first)


@each_perturbation
def test_strength_follows_severity_alpha_and_the_documents_own_length(name):
    """Scaled by the padded length, a short answer in a long batch gets next to no noise."""
    cls = load_part("perturbations", name)
    ids, documents, places = padded(DOCUMENTS)
    full = cls(alpha=5.0).noise(ids, documents, WIDTH, 3)
    torch.testing.assert_close(cls(alpha=15.0).noise(ids, documents, WIDTH, 3), 3 * full)
    torch.testing.assert_close(cls(severity=0.25).noise(ids, documents, WIDTH, 3), 0.25 * full)
    shapeless = cls().from_uniform  # the unit noise that the uniform numbers turn into
    unit = shapeless(document_uniform(ids, documents, WIDTH, 3))
    for (row, place), document in zip(places, DOCUMENTS, strict=True):
        torch.testing.assert_close(full[row, place], 5 / (len(document) * WIDTH) ** 0.5 * unit[row, place])


@each_perturbation
def test_perturbation_documents_itself_and_refuses_wrong_settings(name):
    """A severity of 30 percent written as 30 would drown the input."""
    check_documentation(load_part("perturbations", name), example=False)
    check_wrong_settings_raise(load_part("perturbations", name))
    with pytest.raises(ValueError, match=r"^severity: must lie in \[0, 1\], got 30"):
        load_part("perturbations", name)(severity=30)
    with pytest.raises(ValueError, match=r"^alpha: must be greater than 0, got 0"):
        load_part("perturbations", name)(alpha=0)
