# SPDX-License-Identifier: Apache-2.0
"""Uniform noise on the embeddings."""

from dataclasses import dataclass

from torch import Tensor

from .base import EmbeddingNoise


@dataclass(eq=False)
class UniformPerturbation(EmbeddingNoise):
    r"""
    Adds uniform noise to the token embeddings.

        x' = x + severity * alpha / sqrt(L D) * U(-1, 1)        L = tokens of the document, D = embedding width

    Source: Jain et al. 2023 (NEFTune), https://huggingface.co/papers/2310.05914. Differs: L counts the document's own
    tokens, without padding or its neighbours in a pack.
    Related: [`GaussianPerturbation`] has the same scale and sqrt(3) times the norm.

    Args:
        severity (`float`, *optional*, defaults to `1.0`):
            Share of the full strength, in [0, 1].
        alpha (`float`, *optional*, defaults to `5.0`):
            Noise strength, > 0; the expected norm of a document's whole noise is alpha / sqrt(3).
    """

    def from_uniform(self, uniform: Tensor) -> Tensor:
        return 2 * uniform - 1
