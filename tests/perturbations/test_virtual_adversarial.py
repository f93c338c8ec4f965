# SPDX-License-Identifier: Apache-2.0
"""Virtual adversarial noise: the direction of the strongest curvature."""

import pytest
import torch

from hf_ckt.perturbations.virtual_adversarial import VirtualAdversarialPerturbation
from tests.perturbations.toy_search import ALPHA, LAYOUTS, SIZES, Toy, linear, norms, quadratic


def begin(start: torch.Tensor, radius: float, norm: str) -> torch.Tensor:
    """Where its search begins in a document that has a start: in its direction, at the distance of the probe."""
    return start * (0.1 * radius / start.norm())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_virtual_adversarial_noise_is_the_dominant_eigenvector(layout):
    """A few steps along the gradient of the batch look like noise that works, and are not what the paper proposes."""
    gradients, dominant = quadratic()
    found = Toy(layout, gradients).search(VirtualAdversarialPerturbation(alpha=ALPHA, severity=0.5, steps=40))
    for noise, vector in zip(found, dominant, strict=True):
        assert abs(torch.cosine_similarity(noise, vector, dim=0)) > 0.999
    # The second largest eigenvalue is half as large: one step is not enough, so the test can tell.
    once = Toy(layout, gradients).search(VirtualAdversarialPerturbation(alpha=ALPHA))
    assert min(abs(torch.cosine_similarity(a, b, dim=0)) for a, b in zip(once, dominant, strict=True)) < 0.99


@pytest.mark.parametrize("probe", [0.01, 0.1, 2.0])
def test_virtual_adversarial_feels_the_curvature_at_its_probe(probe):
    """At the full radius a divergence is no longer quadratic, and too near it drowns in rounding."""
    toy = Toy("right", quadratic()[0])
    toy.search(VirtualAdversarialPerturbation(alpha=ALPHA, severity=0.5, steps=3, probe=probe))
    for noise in toy.seen:
        assert norms(toy.split(noise)) == pytest.approx([probe * 0.5 * ALPHA] * len(SIZES), rel=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("severity", [0.3, 1.0])
@pytest.mark.parametrize("steps", [1, 4])
def test_virtual_adversarial_noise_has_the_full_norm(layout, severity, steps):
    """A direction is all that the search gives: shorter than asked, the noise would be compared at another strength."""
    for gradients in (linear()[0], quadratic()[0]):
        found = Toy(layout, gradients).search(
            VirtualAdversarialPerturbation(alpha=ALPHA, severity=severity, steps=steps)
        )
        assert norms(found) == pytest.approx([severity * ALPHA] * len(SIZES), rel=1e-5)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"steps": 0}, r"^steps: must be 1 or more, got 0\. Without an iteration"),
        ({"probe": 0}, r"^probe: must be greater than 0, got 0\. At distance 0"),
        ({"probe": float("inf")}, r"^probe: must be finite, got inf"),
    ],
)
def test_virtual_adversarial_refuses_settings_that_search_nothing(settings, message):
    """No step, or one of length 0, would train on random noise under the name of an adversarial one."""
    with pytest.raises(ValueError, match=message):
        VirtualAdversarialPerturbation(**settings)
