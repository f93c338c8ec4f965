# SPDX-License-Identifier: Apache-2.0
"""The direction in which the prediction bends most at the clean input, found by power iteration."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..checks import require_count, require_positive
from ..models.batch import Documents
from .base import (
    EmbeddingPerturbation,
    begin_search,
    document_uniform,
    normal_from_uniform,
    require_gradient,
    with_document_norm,
)


@dataclass(eq=False)
class VirtualAdversarialPerturbation(EmbeddingPerturbation):
    r"""
    Takes the dominant eigenvector of the divergence's curvature at the clean input, at the full norm.

        d <- g(probe * eps * d) / ||g(probe * eps * d)||,   noise = eps * d,   eps = severity * alpha over the document

    with g the gradient of the document's divergence from its own clean prediction: at a small distance it is the
    Hessian times d, so repeating it is power iteration.

    Source: Miyato et al. 2018 (VAT), https://huggingface.co/papers/1704.03976, section 3.3. Differs: a norm per
    document; the probe is a share of the radius, since a fixed tiny one would vanish in half precision.
    Related: [`AdversarialPerturbation`] climbs inside the ball, where the divergence is no longer quadratic.

    Args:
        severity (`float`, *optional*, defaults to `1.0`):
            Share of the full strength, in [0, 1].
        alpha (`float`, *optional*, defaults to `5.0`):
            Noise strength, > 0: the norm of a document's noise at severity 1. It moves a prediction far more than random
            noise of its norm: start at 1.
        steps (`int`, *optional*, defaults to `1`):
            Power iterations, at least 1. Each costs about a training pass without the gradients of the weights.
        probe (`float`, *optional*, defaults to `0.1`):
            Distance at which the curvature is felt, as a share of the radius, > 0. Smaller is nearer to the
            definition and drowns in rounding.
    """

    searches: ClassVar[bool] = True

    steps: int = 1
    probe: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count("steps", self.steps, 1, "Without an iteration the direction is random; use gaussian for that.")
        require_positive("probe", self.probe, "At distance 0 the divergence is at its minimum and has no gradient.")

    def noise(
        self,
        input_ids: Tensor,
        documents: Documents,
        width: int,
        seed: int,
        gradient: Callable[[Tensor], Tensor] | None = None,
        start: Tensor | None = None,
    ) -> Tensor:
        gradient = require_gradient(gradient)
        radius = self.severity * self.alpha
        unit = normal_from_uniform(document_uniform(input_ids, documents, width, seed)) * documents.mask[..., None]
        direction = begin_search(start, unit, documents)
        for _ in range(self.steps):
            found = gradient(with_document_norm(direction, documents, self.probe * radius))
            # Where the prediction does not move at all, any direction is as good as another.
            direction = begin_search(with_document_norm(found, documents, 1.0), direction, documents)
        return with_document_norm(direction, documents, radius)
