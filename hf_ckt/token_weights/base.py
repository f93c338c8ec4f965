# SPDX-License-Identifier: Apache-2.0
"""The contract that token weightings keep."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from ..views import TokenViews


class TokenWeights(ABC):
    """
    How much each kept token's loss counts against the other tokens', without gradient.

    What a weighting gives is divided by its mean ([`~objective.token_weighting.TokenWeighting`]), so that it moves weight
    from some tokens to others and never changes the size of a loss. It must not couple tokens with each other.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    """Names of the views it reads: `teacher`, `reference`, `student`."""
    reads_positions: ClassVar[bool] = False
    """Whether it reads where in its document a token stands."""

    @abstractmethod
    def per_token(self, views: TokenViews, positions: Tensor | None) -> Tensor:
        """
        Returns the weight of each token before normalisation, 0 or more, `(N,)`.

        Args:
            views ([`~views.TokenViews`]):
                Labels, and the views that `needs` names.
            positions (`torch.Tensor` of shape `(N,)`, *optional*):
                How many kept tokens of its document stand before each; None unless `reads_positions`.
        """
