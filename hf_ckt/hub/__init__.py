# SPDX-License-Identifier: Apache-2.0
"""
What goes to the Hub, and how: cards, from a trainer or from results files, what a figure depends on, and the push of a saved run.

May enter: text made of facts, where versions and machine are read, and what asks the Hub; nothing that trains or evaluates.
"""

from .model_card import build_model_card

__all__ = ["build_model_card"]
