# SPDX-License-Identifier: Apache-2.0
"""The noise that moves the prediction most, found by gradient ascent."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..checks import require_count, require_known, require_positive
from ..models.batch import Documents
from .base import (
    EmbeddingPerturbation,
    begin_search,
    document_norms,
    document_uniform,
    normal_from_uniform,
    require_gradient,
    with_document_norm,
)

NORMS = ("l2", "linf")
# Share of the ball's radius that a random start has: away from the clean input, where the divergence is at its minimum
# and has no gradient, and still so near that the direction found there is that of the steepest way out.
_START = 0.1


@dataclass(eq=False)
class AdversarialPerturbation(EmbeddingPerturbation):
    r"""
    Ascends the consistency divergence inside a ball around the token embeddings, each document in a ball of its own.

        l2:    d <- project(d + step_size * eps * g / ||g||),      ||d|| <= eps = severity * alpha over the document
        linf:  d <- clamp(d + step_size * b * sign(g), -b, b),     b = severity * alpha / sqrt(L D) for each channel

    with g the gradient of the document's divergence from its own clean prediction. A step costs a forward pass and a
    backward pass through the activations alone: no gradient of a parameter is formed.

    Source: Madry et al. 2018, https://huggingface.co/papers/1706.06083; Zhu et al. 2020 (FreeLB),
    https://huggingface.co/papers/1909.11764, and Jiang et al. 2020 (SMART), https://huggingface.co/papers/1911.03437,
    for language models. Differs: a norm per document, also in a pack; the last noise is used and not the mean over steps.
    Related: [`VirtualAdversarialPerturbation`] looks for the direction of largest curvature at the clean input;
    [`GaussianPerturbation`] has the same norm in a random direction.

    Args:
        severity (`float`, *optional*, defaults to `1.0`):
            Share of the full strength, in [0, 1].
        alpha (`float`, *optional*, defaults to `5.0`):
            Noise strength, > 0: the l2 radius at severity 1; under linf the norm can be alpha at most. Noise that was
            searched moves a prediction far more than random noise of its norm: start at 1.
        steps (`int`, *optional*, defaults to `1`):
            Ascent steps, at least 1. Each costs about a training pass without the gradients of the weights.
        step_size (`float`, *optional*, defaults to `1.0`):
            Length of a step as a share of the radius, > 0.
        norm (`str`, *optional*, defaults to `"l2"`):
            `l2` or `linf`.
    """

    searches: ClassVar[bool] = True

    steps: int = 1
    step_size: float = 1.0
    norm: str = "l2"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count("steps", self.steps, 1, "Without a step the noise is random; use gaussian for that.")
        require_positive("step_size", self.step_size, "The noise would stay where it began, or descend.")
        require_known("norm", self.norm, NORMS)

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
        uniform = document_uniform(input_ids, documents, width, seed)
        bound = self.bound(documents, width)
        if self.norm == "linf":
            noise = begin_search(start, _START * bound * (2 * uniform - 1), documents).clamp(-bound, bound)
            for _ in range(self.steps):
                noise = (noise + self.step_size * bound * torch.sign(gradient(noise))).clamp(-bound, bound)
            return noise
        radius = self.severity * self.alpha
        noise = with_document_norm(normal_from_uniform(uniform) * (bound > 0), documents, _START * radius)
        noise = self._project(begin_search(start, noise, documents), documents, radius)
        for _ in range(self.steps):
            ascent = with_document_norm(gradient(noise), documents, self.step_size * radius)
            noise = self._project(noise + ascent, documents, radius)
        return noise

    @staticmethod
    def _project(noise: Tensor, documents: Documents, radius: float) -> Tensor:
        norms = document_norms(noise, documents)
        return noise * (radius / norms.clamp(min=1e-30)).clamp(max=1.0) * documents.mask[..., None]
