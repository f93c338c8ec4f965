# SPDX-License-Identifier: Apache-2.0
"""Statistics of the counter-based uniform numbers. Seeds are fixed, so each test passes always or never."""

import math

import pytest
import torch
from torch import Tensor

from hf_ckt.perturbations.base import document_uniform, normal_from_uniform
from tests.perturbations.batches import draw_document, padded


def draw(document: Tensor, width: int, seed: int = 7) -> Tensor:
    ids, documents, _ = padded([document])
    return document_uniform(ids, documents, width, seed)[0]  # (T, D)


def kolmogorov_smirnov(sample: Tensor) -> float:
    """sqrt(n) times the largest distance from the uniform distribution; above 1.95 once in a thousand samples."""
    ordered = sample.flatten().double().sort().values
    count = len(ordered)
    steps = torch.arange(count + 1, dtype=torch.float64) / count
    return math.sqrt(count) * max((steps[1:] - ordered).max().item(), (ordered - steps[:-1]).max().item())


def correlation(first: Tensor, second: Tensor) -> float:
    """Correlation in units of its standard deviation among independent samples."""
    pair = torch.stack([first.flatten(), second.flatten()]).double()
    return torch.corrcoef(pair)[0, 1].item() * math.sqrt(pair.shape[1])


@pytest.mark.parametrize("seed", [0, 1, 1 << 32, (1 << 62) + 5])
def test_uniform_numbers_have_the_uniform_moments_and_distribution(seed):
    """A biased generator shifts every embedding the same way, which trains instead of perturbing."""
    sample = draw(draw_document(500, 0), 200, seed)
    spread = math.sqrt(1 / 12 / sample.numel())
    assert abs(sample.mean().item() - 0.5) < 4 * spread
    assert abs(sample.var().item() - 1 / 12) < 4 * math.sqrt(1 / 180 / sample.numel())
    assert kolmogorov_smirnov(sample) < 1.95
    assert sample.min() > 0 and sample.max() < 1


def test_kolmogorov_smirnov_sees_a_small_bias():
    """A statistic that never rejects would make the test above empty."""
    assert kolmogorov_smirnov(draw(draw_document(500, 0), 200) ** 1.03) > 1.95


def test_every_position_and_every_channel_is_uniform():
    """One constant channel among hundreds does not show in the whole."""
    sample = draw(draw_document(400, 1), 400)
    for dimension in (0, 1):
        means = (sample.double().mean(dimension) - 0.5) * math.sqrt(12 * 400)  # standard normal
        assert means.abs().max() < 4.5 and abs(means.square().mean().item() - 1) < 4 * math.sqrt(2 / 400)


def test_channels_positions_and_repeated_tokens_are_independent():
    """Noise shared between channels or positions is a direction, which the model can learn."""
    sample = draw(torch.full((600,), 42), 64)  # one token repeated: only the position tells them apart
    for table in (sample, sample.t()[:, :64]):
        correlations = torch.corrcoef(table.t().double()).fill_diagonal_(0) * math.sqrt(table.shape[0])
        assert correlations.abs().max() < 5
    assert abs(correlation(sample[1:], sample[:-1])) < 4
    assert abs(correlation(sample[:, 1:], sample[:, :-1])) < 4
    assert len(sample.flatten().unique()) > 0.99 * sample.numel()


def test_neighbouring_seeds_and_nearly_equal_documents_are_independent():
    """The noise of successive steps, or of two prompts that differ in one word, would otherwise be one noise."""
    document = draw_document(300, 2)
    changed, swapped = document.clone(), document.clone()
    changed[150] += 1
    swapped[:2] = swapped[:2].flip(0)
    sample = draw(document, 64)
    others = [draw(changed, 64), draw(swapped, 64), draw(document[:-1], 64), draw(document, 64, seed=8)]
    others.append(draw(document, 64, seed=7 << 32))
    for other in others:
        assert abs(correlation(sample[: len(other)], other)) < 4
        assert (sample[: len(other)] == other).float().mean() < 1e-3


def test_longer_width_only_appends_channels():
    """Documented as a function of position and channel: a block size inside it would show here."""
    document = draw_document(9, 3)
    assert torch.equal(draw(document, 64)[:, :10], draw(document, 10))


def test_normal_numbers_are_finite_at_the_ends_of_the_uniform_ones():
    """One infinite number among billions turns a step into NaN after days."""
    ends = torch.tensor([0.5, 2**23 - 0.5]) * 2.0**-23  # the least and the largest that document_uniform returns
    values = normal_from_uniform(ends)
    assert values.isfinite().all() and values[0] == -values[1] and 5 < values[1] < 6
