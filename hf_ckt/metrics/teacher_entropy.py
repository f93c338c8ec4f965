# SPDX-License-Identifier: Apache-2.0
"""Entropy of the teacher."""

from typing import ClassVar

from torch import Tensor

from ..views import TokenViews
from .base import TokenMetric


class TeacherEntropyMetric(TokenMetric):
    r"""
    How undecided the teacher is.

        value_i = -sum_v p_t(v) log p_t(v)        nats

    Source: Shannon entropy.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"teacher"})

    def per_token(self, views: TokenViews) -> Tensor:
        assert views.teacher is not None  # named in `needs`
        return -(views.teacher.probs() * views.teacher.log_probs()).sum(-1)
