# SPDX-License-Identifier: Apache-2.0
"""The contract that perturbations keep, and noise that depends on the example alone."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..checks import require_positive, require_within
from ..views import Documents

_MASK = 0xFFFFFFFF


@dataclass(eq=False)
class Perturbation(ABC):
    """
    Changes the input of the student's noisy view.

    Args:
        severity (`float`, *optional*, defaults to `1.0`):
            Strength in [0, 1]; 0 changes nothing.
    """

    stage: ClassVar[str]
    """What it changes: `text`, `ids` or `embeddings`."""

    severity: float = 1.0

    def __post_init__(self) -> None:
        require_within("severity", self.severity, 0, 1, "It is a share of the full strength.")


@dataclass(eq=False)
class EmbeddingNoise(Perturbation):
    r"""
    Independent noise on the token embeddings, scaled by each document's own length.

        x' = x + severity * alpha / sqrt(L D) * noise        L = tokens of the document, D = embedding width

    Args:
        alpha (`float`, *optional*, defaults to `5.0`):
            Noise strength, > 0; 5 is the smallest value that NEFTune reports.
    """

    stage: ClassVar[str] = "embeddings"

    alpha: float = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("alpha", self.alpha, "The noise would vanish or flip its sign; use severity=0 for none.")

    @abstractmethod
    def from_uniform(self, uniform: Tensor) -> Tensor:
        """Maps uniform numbers in (0, 1) to the noise's distribution."""

    def noise(self, input_ids: Tensor, documents: Documents, width: int, seed: int) -> Tensor:
        """
        Returns the noise of a batch, `(B, T, width)` float32, 0 at padding.

        It is a function of the seed and of each document's own tokens: the same for a document alone, padded, packed,
        in any micro-batch and on any rank.

        Args:
            input_ids (`torch.Tensor` of shape `(B, T)`):
                Token ids.
            documents ([`~views.Documents`]):
                Where each token's document lies.
            width (`int`):
                Embedding width.
            seed (`int`):
                Seed of the step.
        """
        uniform = document_uniform(input_ids, documents, width, seed)
        scale = self.severity * self.alpha / (documents.lengths * width).to(torch.float32).sqrt()
        return self.from_uniform(uniform) * (scale * documents.mask)[..., None]


# Kept out of torch_compile: inductor (torch 2.13, CPU) turns its integer arithmetic into floats.
@torch.compiler.disable
def document_uniform(input_ids: Tensor, documents: Documents, width: int, seed: int) -> Tensor:
    """
    Returns uniform numbers in (0, 1) for each token and channel, `(B, T, width)` float32.

    A counter-based generator (as Salmon et al. 2011 propose; here MurmurHash3's 32-bit finaliser) keyed by seed,
    document, position and channel: no generator state, no loop over documents, no device sync.
    """
    positions = documents.positions
    words = _mix(input_ids + _mix(positions + 0x9E3779B9)) * documents.mask
    hashes = torch.zeros(documents.count, dtype=torch.int64, device=input_ids.device)
    hashes.index_add_(0, documents.index.flatten(), words.flatten())
    # The low word is mixed before the high one joins: (seed 1, step 2) and (seed 2, step 1) are two seeds.
    seed_key = _mix(_mix(torch.tensor(seed & _MASK, device=input_ids.device)) ^ (seed >> 32 & _MASK))
    keys = _mix(_mix(hashes ^ seed_key)[documents.index] + positions)  # (B, T)
    channels = _mix(torch.arange(width, device=input_ids.device) + 0x7F4A7C15)  # (D,)
    bits = _mix(keys[..., None] ^ channels)  # (B, T, D)
    # 23 bits and a half: with 24, float32 would round the largest to 1, whose normal quantile is infinite.
    return ((bits >> 9).to(torch.float32) + 0.5) * 2.0**-23


def _mix(value: Tensor) -> Tensor:
    """MurmurHash3's finaliser on 32-bit values held in int64 (products wrap; the low 32 bits are exact)."""
    value = value & _MASK
    value = ((value ^ (value >> 16)) * 0x85EBCA6B) & _MASK
    value = ((value ^ (value >> 13)) * 0xC2B2AE35) & _MASK
    return value ^ (value >> 16)


def normal_from_uniform(uniform: Tensor) -> Tensor:
    """Maps uniform numbers in (0, 1) to the standard normal distribution by its inverse."""
    return torch.erfinv(2 * uniform - 1) * math.sqrt(2)
