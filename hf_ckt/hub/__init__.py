# SPDX-License-Identifier: Apache-2.0
"""
What goes to the Hub beside the weights: cards, from a trainer or from results files.

May enter: text made of facts that are given; nothing that trains or measures.
"""

from .model_card import build_model_card

__all__ = ["build_model_card"]
