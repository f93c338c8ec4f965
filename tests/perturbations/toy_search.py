# SPDX-License-Identifier: Apache-2.0
"""Functions of noise whose steepest and most curved ways are known, for the tests of searched noise."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tests.perturbations.batches import draw_document, packed, padded

WIDTH = 3
ALPHA = 2.0
DOCUMENTS = [draw_document(length, seed) for seed, length in enumerate((3, 1, 4))]
SIZES = [len(document) * WIDTH for document in DOCUMENTS]

LAYOUTS: dict[str, Callable] = {
    "right": lambda documents: padded(documents, extra=2),
    "left": lambda documents: padded(documents, left=True, extra=2),
    "packed": packed,
}

Gradients = Sequence[Callable[[Tensor], Tensor]]


@dataclass
class Toy:
    """
    A batch and a function of its noise, which is known by each document's gradient, from (L D,) to (L D,).

    Padding has a gradient of its own, as in a model that does not mask it.
    """

    layout: str
    gradients: Gradients
    documents: list[Tensor] = field(default_factory=lambda: DOCUMENTS)

    def __post_init__(self) -> None:
        self.ids, self.views, self.places = LAYOUTS[self.layout](self.documents)
        self.seen: list[Tensor] = []

    def gradient(self, noise: Tensor) -> Tensor:
        self.seen.append(noise.clone())
        found = torch.full_like(noise, 7.0)
        for (row, place), gradient in zip(self.places, self.gradients, strict=True):
            found[row, place] = gradient(noise[row, place].flatten()).view(-1, WIDTH)
        return found

    def search(self, part: Any, seed: int = 1, start: list[Tensor] | None = None) -> list[Tensor]:
        """Noise of each document, (L D,)."""
        return self.split(part.noise(self.ids, self.views, WIDTH, seed, self.gradient, self.lay_out(start)))

    def split(self, noise: Tensor) -> list[Tensor]:
        return [noise[row, place].flatten() for row, place in self.places]

    def lay_out(self, values: list[Tensor] | None) -> Tensor | None:
        if values is None:
            return None
        noise = torch.full((*self.ids.shape, WIDTH), 9.0)
        for (row, place), value in zip(self.places, values, strict=True):
            noise[row, place] = value.view(-1, WIDTH)
        return noise


def draw(size: int, seed: int) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def flat() -> Gradients:
    return [torch.zeros_like for _ in SIZES]


def linear(scale: float = 1.0) -> tuple[Gradients, list[Tensor]]:
    """A slope for each document, of very different steepness."""
    slopes = [scale * 10**index * draw(size, 20 + index) for index, size in enumerate(SIZES)]
    return [lambda noise, slope=slope: slope.clone() for slope in slopes], slopes


def quadratic(scale: float = 1.0) -> tuple[Gradients, list[Tensor]]:
    """0.5 d' H d for each document, and the eigenvector of H whose eigenvalue is twice the next one."""
    matrices, dominant = [], []
    for index, size in enumerate(SIZES):
        vectors = torch.linalg.qr(draw(size * size, 40 + index).view(size, size).double()).Q
        values = torch.linspace(0.1, 0.5, size).double()
        values[0] = -1.0 if index == 0 else 1.0  # the curvature of a divergence is positive, but it is not needed
        matrices.append((scale * vectors @ values.diag() @ vectors.t()).float())
        dominant.append(vectors[:, 0].float())
    return [lambda noise, matrix=matrix: matrix @ noise for matrix in matrices], dominant


def norms(values: Sequence[Tensor]) -> list[float]:
    return [value.double().norm().item() for value in values]
