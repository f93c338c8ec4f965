# SPDX-License-Identifier: Apache-2.0
"""Gaussian noise on the embeddings."""

from dataclasses import dataclass

from torch import Tensor

from .base import EmbeddingNoise, normal_from_uniform


@dataclass(eq=False)
class GaussianPerturbation(EmbeddingNoise):
    r"""
    Adds normal noise to the token embeddings.

        x' = x + severity * alpha / sqrt(L D) * N(0, 1)        L = tokens of the document, D = embedding width

    Source: Jain et al. 2023 (NEFTune), https://huggingface.co/papers/2310.05914, for the scale. Differs: normal, and
    L counts the document's own tokens, without padding or its neighbours in a pack.
    Related: [`UniformPerturbation`] is NEFTune's own distribution, at 1 / sqrt(3) of this one's norm.

    Args:
        severity (`float`, *optional*, defaults to `1.0`):
            Share of the full strength, in [0, 1].
        alpha (`float`, *optional*, defaults to `5.0`):
            Noise strength, > 0: the expected norm of a document's whole noise.
    """

    def from_uniform(self, uniform: Tensor) -> Tensor:
        return normal_from_uniform(uniform)
