# SPDX-License-Identifier: Apache-2.0
"""
All token losses and similarities from hidden states and heads, in tiles; usable without a trainer.

May enter: products with a head and what is computed on them; nothing that knows which loss it runs.
"""

from ..views import LinearHead
from .chunked_linear import TokenLossOutput, chunked_token_losses
from .head_gram import HeadGram

__all__ = ["HeadGram", "LinearHead", "TokenLossOutput", "chunked_token_losses"]
