# SPDX-License-Identifier: Apache-2.0
"""The contract that metrics on token distributions keep."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from ..views import TokenViews


class TokenMetric(ABC):
    """A quantity per kept token, reported as its mean, computed on the tiles that the losses read anyway."""

    needs: ClassVar[frozenset[str]] = frozenset({"student"})
    """Names of the views it reads."""

    logged: ClassVar[bool] = True
    """Whether every training step computes it; False of what is dear and wanted in evaluations only."""

    def __repr__(self) -> str:
        # Without an address: equal metrics share one compiled program.
        return f"{type(self).__name__}({vars(self) or ''})"

    @abstractmethod
    def per_token(self, views: TokenViews) -> Tensor:
        """Returns the quantity at each token, `(N,)`."""
