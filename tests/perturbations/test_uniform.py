# SPDX-License-Identifier: Apache-2.0
"""Uniform noise: its bounds and the norm that its docstring promises."""

import math

from hf_ckt.perturbations.gaussian import GaussianPerturbation
from hf_ckt.perturbations.uniform import UniformPerturbation
from tests.perturbations.batches import draw_document, padded


def test_uniform_noise_is_neftunes():
    """U(0, 1) instead of U(-1, 1) would shift all embeddings in one direction."""
    ids, documents, _ = padded([draw_document(400, 0)])
    noise = UniformPerturbation(alpha=5.0).noise(ids, documents, 64, 1).double()
    bound = 5 / math.sqrt(400 * 64)
    assert noise.abs().max() < bound and noise.max() > 0.999 * bound and noise.min() < -0.999 * bound
    assert abs(noise.mean().item()) < 4 * bound / math.sqrt(3 * noise.numel())


def test_uniform_noise_of_a_document_has_the_norm_alpha_over_the_root_of_three():
    """The docstring compares the two distributions by their norms."""
    lengths = [4 + i % 40 for i in range(200)]
    ids, documents, _ = padded([draw_document(length, seed) for seed, length in enumerate(lengths)])
    squares = UniformPerturbation(alpha=5.0).noise(ids, documents, 32, 1).double().square().sum((1, 2))
    # of n squares of U(-1, 1) over n: mean 1 / 3, variance 4 / 45 / n
    error = sum(4 / 45 / (length * 32) for length in lengths) ** 0.5 / len(lengths)
    assert abs(squares.mean().item() / 25 - 1 / 3) < 4 * error
    normal = GaussianPerturbation(alpha=5.0).noise(ids, documents, 32, 1).double().square().sum((1, 2))
    assert abs((normal.mean() / squares.mean()).item() - 3) < 0.1
