# SPDX-License-Identifier: Apache-2.0
"""What goes to the Hub beside the weights."""

from .model_card import build_model_card

__all__ = ["build_model_card"]
