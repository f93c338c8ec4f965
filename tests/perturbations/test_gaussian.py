# SPDX-License-Identifier: Apache-2.0
"""Gaussian noise: its distribution and the norm that its docstring promises."""

import math

import torch

from hf_ckt.perturbations.gaussian import GaussianPerturbation
from tests.perturbations.batches import draw_document, padded


def test_gaussian_noise_has_normal_moments():
    """A wrong inverse gives noise of the right size and the wrong tails."""
    ids, documents, _ = padded([draw_document(500, 0)])
    unit = GaussianPerturbation(alpha=math.sqrt(500 * 200)).noise(ids, documents, 200, 1).double().flatten()
    count = unit.numel()
    # mean, variance, skewness, kurtosis, each in units of its standard error
    for power, expected, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((unit**power).mean().item() - expected) < 4 * math.sqrt(variance / count), power
    inside = (unit.abs() < 1.959964).double().mean().item()
    assert abs(inside - 0.95) < 4 * math.sqrt(0.95 * 0.05 / count)


def test_gaussian_noise_of_a_document_has_the_norm_alpha():
    """Alpha is compared with NEFTune's; by another norm the comparison would be of two strengths."""
    lengths = [4 + i % 40 for i in range(200)]
    ids, documents, _ = padded([draw_document(length, seed) for seed, length in enumerate(lengths)])
    squares = GaussianPerturbation(alpha=5.0).noise(ids, documents, 32, 1).double().square().sum((1, 2))
    # of n normal numbers over n: mean 1, variance 2 / n
    error = sum(2 / (length * 32) for length in lengths) ** 0.5 / len(lengths)
    assert abs(squares.mean().item() / 25 - 1) < 4 * error
    assert torch.corrcoef(torch.stack([squares, torch.tensor(lengths).double()]))[0, 1].abs() < 0.3
