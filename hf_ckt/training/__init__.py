# SPDX-License-Identifier: Apache-2.0
"""
`ContrastiveRobustTrainer` and what it alone needs: its config, the passes of a micro-batch, its log and its state.

May enter: what knows of transformers' Trainer or its arguments; no mathematics.
"""
