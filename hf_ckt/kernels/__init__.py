# SPDX-License-Identifier: Apache-2.0
"""Work on hidden states and heads, usable without a trainer."""

from ..views import LinearHead
from .chunked_linear import TokenLossOutput, chunked_token_losses
from .head_gram import HeadGram

__all__ = ["HeadGram", "LinearHead", "TokenLossOutput", "chunked_token_losses"]
