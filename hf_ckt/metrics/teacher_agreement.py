# SPDX-License-Identifier: Apache-2.0
"""Top-1 agreement with the teacher."""

from typing import ClassVar

from torch import Tensor

from ..views import TokenViews
from .base import TokenMetric


class TeacherAgreementMetric(TokenMetric):
    r"""
    Whether student and teacher hold the same token most probable.

        value_i = [argmax p_t = argmax p_s]        0 or 1

    Source: Stanton et al. 2021, https://huggingface.co/papers/2106.05945.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"student", "teacher"})

    def per_token(self, views: TokenViews) -> Tensor:
        assert views.teacher is not None  # named in `needs`
        shared = views.shared_vocab("teacher", "student")
        return (views.teacher.top(shared) == views.student.top(shared)).to(views.student.logits.dtype)
