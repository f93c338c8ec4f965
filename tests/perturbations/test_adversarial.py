# SPDX-License-Identifier: Apache-2.0
"""Adversarial noise: the maximum that it climbs to, and how it steps there."""

import math

import pytest
import torch

from hf_ckt.perturbations.adversarial import AdversarialPerturbation
from tests.perturbations.toy_search import ALPHA, LAYOUTS, SIZES, Toy, draw, flat, linear


def begin(start: torch.Tensor, radius: float, norm: str) -> torch.Tensor:
    """Where its search begins in a document that has a start: there, drawn into the ball."""
    if norm == "linf":
        bound = radius / math.sqrt(len(start))
        return torch.tensor([min(max(value, -bound), bound) for value in start.tolist()])
    return start * min(1.0, radius / start.norm().item())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("step_size, steps", [(1.0, 30), (0.25, 60)])
def test_adversarial_noise_reaches_the_maximum_of_a_linear_function(layout, norm, step_size, steps):
    """The one maximum that is known: descent, a wrong projection or a step without the norm all miss it."""
    gradients, slopes = linear()
    part = AdversarialPerturbation(alpha=ALPHA, severity=0.5, norm=norm, steps=steps, step_size=step_size)
    for noise, slope in zip(Toy(layout, gradients).search(part), slopes, strict=True):
        bound = 0.5 * ALPHA / math.sqrt(len(slope))
        expected = 0.5 * ALPHA * slope / slope.norm() if norm == "l2" else bound * slope.sign()
        torch.testing.assert_close(noise, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_adversarial_search_begins_near_the_clean_input_and_steps_by_its_step_size(norm):
    """A start at the rim has nowhere to go in one step, and a start at 0 has no gradient."""
    gradients, slopes = linear()
    toy = Toy("right", gradients)
    toy.search(AdversarialPerturbation(alpha=ALPHA, severity=0.5, norm=norm, steps=2, step_size=0.3))
    for first, second, slope in zip(*map(toy.split, toy.seen), slopes, strict=True):
        bound = 0.5 * ALPHA / math.sqrt(len(slope))
        if norm == "l2":
            assert first.norm().item() == pytest.approx(0.1 * 0.5 * ALPHA, rel=1e-5)
            step = 0.3 * 0.5 * ALPHA * slope / slope.norm()
        else:
            assert first.abs().min() > 0 and first.abs().max() <= 0.1 * bound
            step = 0.3 * bound * slope.sign()
        # 0.1 + 0.3 of the radius: no projection yet
        torch.testing.assert_close(second, first + step)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_adversarial_search_with_nowhere_to_climb_stays_where_it_began(norm):
    """A step along a gradient of 0 is one along rounding."""
    start = [draw(SIZES[0], 1) * 0.01, draw(SIZES[1], 2) * 100, torch.zeros(SIZES[2])]
    part, toy = AdversarialPerturbation(alpha=ALPHA, norm=norm), Toy("right", flat())
    found = toy.search(part, start=start)
    for one, other in zip(found, toy.split(toy.seen[0]), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"steps": 0}, r"^steps: must be 1 or more, got 0\. Without a step"),
        ({"step_size": 0}, r"^step_size: must be greater than 0, got 0\. The noise"),
        ({"step_size": float("nan")}, r"^step_size: must be finite, got nan"),
        ({"norm": "l3"}, r"^norm: unknown name 'l3'\. Did you mean 'l2'\? Known: l2, linf"),
    ],
)
def test_adversarial_refuses_settings_that_search_nothing(settings, message):
    """No step, or one of length 0, would train on random noise under the name of an adversarial one."""
    with pytest.raises(ValueError, match=message):
        AdversarialPerturbation(**settings)
