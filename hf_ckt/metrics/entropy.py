# SPDX-License-Identifier: Apache-2.0
"""Entropy of the student."""

from typing import ClassVar

from torch import Tensor

from ..views import TokenViews
from .base import TokenMetric


class EntropyMetric(TokenMetric):
    r"""
    How undecided the student is on the clean input.

        value_i = -sum_v p_s(v) log p_s(v)        nats

    Source: Shannon entropy; SFTTrainer logs the same under this name.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"student"})

    def per_token(self, views: TokenViews) -> Tensor:
        return -(views.student.probs() * views.student.log_probs()).sum(-1)
