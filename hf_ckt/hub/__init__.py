# SPDX-License-Identifier: Apache-2.0
"""
What goes to the Hub beside the weights: cards, from a trainer or from results files, and what a figure depends on.

May enter: text made of facts, and where versions and machine are read; nothing that trains or evaluates.
"""

from .model_card import build_model_card

__all__ = ["build_model_card"]
