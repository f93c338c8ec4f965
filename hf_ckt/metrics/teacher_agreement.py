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
        teacher, student = views.pair("teacher", "student")
        return (teacher.argmax(-1) == student.argmax(-1)).to(student.dtype)
