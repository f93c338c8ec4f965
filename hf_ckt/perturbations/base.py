# SPDX-License-Identifier: Apache-2.0
"""The contracts that perturbations keep, and noise that depends on the example alone."""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar

import torch
from torch import Tensor

from ..checks import require_positive, require_within
from ..models.batch import Documents

STAGES = ("text", "ids", "embeddings")

_MASK = 0xFFFFFFFF


@dataclass(eq=False)
class Perturbation(ABC):
    """
    Changes the input of the student's noisy view.

    Args:
        severity (`float`, *optional*, defaults to `1.0`):
            Strength in [0, 1]: the share of `unit` that is affected; 0 changes nothing.
    """

    stage: ClassVar[str]
    """What it changes: `text`, `ids` or `embeddings`."""
    unit: ClassVar[str]
    """What severity is a share of: `letters`, `words`, `gaps` between words, `tokens`, or the `norm` of alpha."""

    severity: float = 1.0

    def __post_init__(self) -> None:
        require_within("severity", self.severity, 0, 1, "It is a share of the full strength.")


@dataclass(eq=False)
class TextPerturbation(Perturbation):
    """
    Rewrites the text of a prompt, before the chat template and the tokenizer.

    Args:
        severity (`float`, *optional*, defaults to `0.1`):
            Share of the text's units that is affected, in [0, 1].
    """

    stage: ClassVar[str] = "text"

    severity: float = 0.1

    @abstractmethod
    def apply(self, text: str, rng: Random) -> str:
        """Returns the text with about `severity` of its units affected; all chance comes from `rng`."""


@dataclass(eq=False)
class TokenPerturbation(Perturbation):
    """
    Drops or replaces ordinary tokens of a prompt; special tokens and the answer are never offered to it.

    Args:
        severity (`float`, *optional*, defaults to `0.1`):
            Share of the prompt's ordinary tokens that is affected, in [0, 1].
    """

    stage: ClassVar[str] = "ids"
    unit: ClassVar[str] = "tokens"

    severity: float = 0.1

    @abstractmethod
    def edits(self, positions: Sequence[int], vocabulary: Sequence[int], rng: Random) -> dict[int, int | None]:
        """
        Chooses what changes.

        Args:
            positions (`Sequence[int]`):
                Positions that may change.
            vocabulary (`Sequence[int]`):
                Ids that may be put in, special ones left out.
            rng (`random.Random`):
                Source of all chance.

        Returns:
            `dict[int, int | None]`: position to its new id, or to None where the token is dropped.
        """


@dataclass(eq=False)
class EmbeddingPerturbation(Perturbation):
    r"""
    Adds noise to the token embeddings.

    Args:
        severity (`float`, *optional*, defaults to `1.0`):
            Share of the full strength, in [0, 1].
        alpha (`float`, *optional*, defaults to `5.0`):
            Noise strength, > 0: the norm of a document's whole noise at severity 1, spread over its L tokens and D
            channels, so that a channel gets alpha / sqrt(L D). 5 is the smallest value that NEFTune reports.
    """

    stage: ClassVar[str] = "embeddings"
    unit: ClassVar[str] = "norm"
    searches: ClassVar[bool] = False
    """Whether it asks for the gradient of the divergence, which needs the clean view first and passes of its own."""

    alpha: float = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("alpha", self.alpha, "The noise would vanish or flip its sign; use severity=0 for none.")

    @abstractmethod
    def noise(
        self,
        input_ids: Tensor,
        documents: Documents,
        width: int,
        seed: int,
        gradient: Callable[[Tensor], Tensor] | None = None,
        start: Tensor | None = None,
    ) -> Tensor:
        """
        Returns the noise of a batch, `(B, T, width)` float32, 0 at padding.

        What is drawn is a function of the seed and of each document's own tokens: the same for a document alone,
        padded, packed, in any micro-batch and on any rank.

        Args:
            input_ids (`torch.Tensor` of shape `(B, T)`):
                Token ids.
            documents ([`~models.batch.Documents`]):
                Where each token's document lies.
            width (`int`):
                Embedding width.
            seed (`int`):
                Seed of the step.
            gradient (`Callable`, *optional*):
                From noise to the gradient of the batch's summed divergence with respect to it, both
                `(B, T, width)`. Given where `searches`.
            start (`torch.Tensor` of shape `(B, T, width)`, *optional*):
                Noise that a search begins at, of any size; random where it is 0 over a whole document.
        """

    def bound(self, documents: Documents, width: int) -> Tensor:
        """Returns severity * alpha / sqrt(L D) of each token's document, `(B, T, 1)`, 0 at padding."""
        scale = self.severity * self.alpha / (documents.lengths * width).to(torch.float32).sqrt()
        return (scale * documents.mask)[..., None]


@dataclass(eq=False)
class EmbeddingNoise(EmbeddingPerturbation):
    r"""
    Independent noise on the token embeddings, scaled by each document's own length.

        x' = x + severity * alpha / sqrt(L D) * noise        L = tokens of the document, D = embedding width

    Args:
        alpha (`float`, *optional*, defaults to `5.0`):
            Noise strength, > 0.
    """

    @abstractmethod
    def from_uniform(self, uniform: Tensor) -> Tensor:
        """Maps uniform numbers in (0, 1) to the noise's distribution."""

    def noise(
        self,
        input_ids: Tensor,
        documents: Documents,
        width: int,
        seed: int,
        gradient: Callable[[Tensor], Tensor] | None = None,
        start: Tensor | None = None,
    ) -> Tensor:
        uniform = document_uniform(input_ids, documents, width, seed)
        return self.from_uniform(uniform) * self.bound(documents, width)


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
    # Filled and not copied from the host, which would wait for the device.
    low_word = torch.full((), seed & _MASK, dtype=torch.int64, device=input_ids.device)
    seed_key = _mix(_mix(low_word) ^ (seed >> 32 & _MASK))
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


def document_norms(values: Tensor, documents: Documents) -> Tensor:
    """Returns the Euclidean norm over each token's whole document, `(B, T, D)` -> `(B, T, 1)`."""
    squares = values.square().sum(-1) * documents.mask
    sums = squares.new_zeros(documents.count).index_add_(0, documents.index.flatten(), squares.flatten())
    return sums.sqrt()[documents.index][..., None]


def with_document_norm(values: Tensor, documents: Documents, norm: Tensor | float) -> Tensor:
    """Scales each document's values to a Euclidean norm, 0 at padding; values that are all 0 stay so."""
    values = values.masked_fill(~documents.mask[..., None], 0)
    # By the largest first: the squares of a confident prediction's gradients are 0 in float32.
    peaks = values.abs().amax(-1).flatten()
    largest = peaks.new_zeros(documents.count).scatter_reduce_(0, documents.index.flatten(), peaks, "amax")
    values = values / largest.clamp(min=torch.finfo(values.dtype).tiny)[documents.index][..., None]
    return values * (norm / document_norms(values, documents).clamp(min=1e-30))


def require_gradient(gradient: Callable[[Tensor], Tensor] | None) -> Callable[[Tensor], Tensor]:
    """Returns the gradient that a search climbs along; raises ValueError if there is none."""
    if gradient is None:
        raise ValueError("gradient: is None, and without one a search has no direction. Pass it, or use gaussian.")
    return gradient


def begin_search(start: Tensor | None, noise: Tensor, documents: Documents) -> Tensor:
    """Returns where a search begins: at `start`, and at random noise in documents where that is absent or 0."""
    if start is None:
        return noise
    start = start.to(noise) * documents.mask[..., None]
    return torch.where(document_norms(start, documents) > 0, start, noise)


def draw_count(share: float, total: int, rng: Random) -> int:
    """Returns a whole number whose expectation is share * total: short texts get the asked share on average."""
    wanted = share * total
    count = int(wanted)
    return min(total, count + (rng.random() < wanted - count))


def split_words(text: str) -> tuple[list[str], list[str]]:
    """
    Splits a text into words and the gaps around them; there is one gap more than words, the outer ones often empty.

    Example:

    >>> split_words("two words ")
    (['two', 'words'], ['', ' ', ' '])
    """
    return re.findall(r"\S+", text), re.split(r"\S+", text)


def join_words(words: Sequence[str], gaps: Sequence[str]) -> str:
    """The inverse of [`split_words`]."""
    return "".join(gap + word for gap, word in zip(gaps, words, strict=False)) + gaps[len(words)]
