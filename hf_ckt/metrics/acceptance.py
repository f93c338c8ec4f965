# SPDX-License-Identifier: Apache-2.0
"""Acceptance rate."""

from typing import ClassVar

from torch import Tensor

from ..views import TokenViews
from .base import TokenMetric


class AcceptanceMetric(TokenMetric):
    r"""
    Probability that speculative decoding would accept the student's token as the teacher's.

        value_i = sum_v min(p_t(v), p_s(v)) = 1 - total variation        in [0, 1]

    Source: Leviathan et al. 2022, https://huggingface.co/papers/2211.17192.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"student", "teacher"})

    def per_token(self, views: TokenViews) -> Tensor:
        teacher, student = views.pair_probs("teacher", "student")
        return teacher.minimum(student).sum(-1)
