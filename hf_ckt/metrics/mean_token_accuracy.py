# SPDX-License-Identifier: Apache-2.0
"""Token accuracy."""

from typing import ClassVar

from torch import Tensor

from ..views import TokenViews
from .base import TokenMetric


class MeanTokenAccuracyMetric(TokenMetric):
    r"""
    Whether the student holds the next token of the data most probable.

        value_i = [argmax p_s = y_i]        0 or 1

    Source: SFTTrainer logs the same under this name.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"student"})

    def per_token(self, views: TokenViews) -> Tensor:
        return (views.student.top() == views.labels).to(views.student.logits.dtype)
