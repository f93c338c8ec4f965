# SPDX-License-Identifier: Apache-2.0
"""More weight on the tokens at which the teacher differs from the student's base."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..checks import require_within
from ..discovery import load_part
from ..views import TokenViews
from .base import TokenWeights


@dataclass(eq=False)
class TeacherDivergenceTokenWeights(TokenWeights):
    r"""
    Counts the tokens at which the teacher says something else than the student's frozen base for more: there is what it
    has to teach, and most tokens of an answer follow from the language alone.

        weight_i = floor + (1 - floor) 1/2 sum_v |p_t(v) - p_b(v)|        in [floor, 1]

    The total variation distance, and not a KL divergence, which has no bound: one token that the base takes for all but
    impossible would outweigh the others of its batch. It is at most 1, where the two share no token. A teacher that is
    known over buckets of tokens is compared over those.

    Source: https://huggingface.co/papers/2606.02530, more weight on the tokens where teacher and base differ. Differs:
    distance, floor and normalisation are this package's own.
    Related: [`PositionDecayTokenWeights`] needs no teacher.

    Args:
        floor (`float`, *optional*, defaults to `0.1`):
            Least weight, in [0, 1): what a token keeps at which teacher and base agree.

    Shapes:
        teacher, reference log-probabilities `(N, V)` -> `(N,)`.

    Raises:
        ValueError: If the floor does not lie in [0, 1).

    Example:

    >>> import torch
    >>> from hf_ckt.views import LogitsView
    >>> teacher, base = (LogitsView(torch.tensor([[p, 1 - p]]).log()) for p in (0.75, 0.25))
    >>> views = TokenViews(torch.tensor([0]), teacher=teacher, reference=base)
    >>> TeacherDivergenceTokenWeights(floor=0.0).per_token(views, None)
    tensor([0.5000])
    """

    needs: ClassVar[frozenset[str]] = frozenset({"teacher", "reference"})

    floor: float = 0.1

    def __post_init__(self) -> None:
        require_within(
            "floor", self.floor, 0, 1, "At 1 every token counts alike: use uniform in its place.", open_high=True
        )
        # The loss's own formula, of which there is one.
        self._distance = load_part("losses", "total_variation")()

    def per_token(self, views: TokenViews, positions: Tensor | None) -> Tensor:
        return self.floor + (1 - self.floor) * self._distance.divergence(*views.pair("teacher", "reference"))
