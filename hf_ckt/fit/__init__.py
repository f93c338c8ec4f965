# SPDX-License-Identifier: Apache-2.0
"""
What a training run holds in a card's memory, part by part, by calculation.

May enter: formulas over shapes of models, each held against real tensors by a test; nothing that measures.
"""
