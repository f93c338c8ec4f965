# SPDX-License-Identifier: Apache-2.0
"""More weight on the beginning of an answer."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..checks import require_positive, require_within
from ..views import TokenViews
from .base import TokenWeights


@dataclass(eq=False)
class PositionDecayTokenWeights(TokenWeights):
    r"""
    Counts the first tokens of an answer, with which it refuses or complies, for more than those that follow from them.

        weight_i = floor + (1 - floor) 2^(-position_i / half_life)        in (floor, 1]

    The position of a token is the number of tokens of its document before it that count: 0 for the first, whatever the
    prompt's length, padding or packing; in a conversation it counts on from answer to answer.

    Source: Qi et al. 2024, https://huggingface.co/papers/2406.05946: alignment changes little more than the first few
    tokens, of which their fine-tuning objective holds five more strongly. Differs: a smooth decay in place of two levels.
    Related: [`TeacherDivergenceTokenWeights`] finds the tokens that matter by the teacher, wherever they stand.

    Args:
        half_life (`float`, *optional*, defaults to `5.0`):
            Tokens, > 0, over which the weight above the floor falls to half.
        floor (`float`, *optional*, defaults to `0.1`):
            Least weight, in [0, 1): what a token far from the beginning keeps.

    Shapes:
        positions `(N,)` -> `(N,)`.

    Raises:
        ValueError: If half_life is not a positive number, or the floor does not lie in [0, 1).

    Example:

    >>> PositionDecayTokenWeights(half_life=1.0, floor=0.0).per_token(TokenViews(torch.zeros(3)), torch.arange(3))
    tensor([1.0000, 0.5000, 0.2500])
    """

    reads_positions: ClassVar[bool] = True

    half_life: float = 5.0
    floor: float = 0.1

    def __post_init__(self) -> None:
        require_positive("half_life", self.half_life, "It is a number of tokens.")
        require_within(
            "floor", self.floor, 0, 1, "At 1 every token counts alike: use uniform in its place.", open_high=True
        )

    def per_token(self, views: TokenViews, positions: Tensor | None) -> Tensor:
        assert positions is not None  # read
        return self.floor + (1 - self.floor) * torch.exp2(-positions / self.half_life)
