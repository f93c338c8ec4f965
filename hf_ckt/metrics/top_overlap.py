# SPDX-License-Identifier: Apache-2.0
"""Overlap of the most probable tokens."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..checks import require_count
from ..views import TokenViews
from .base import TokenMetric


@dataclass(eq=False, repr=False)
class TopOverlapMetric(TokenMetric):
    r"""
    Share of the teacher's k most probable tokens that are among the student's.

        value_i = |top_k(p_t) & top_k(p_s)| / k        in [0, 1]

    Source: overlap at depth k, Webber et al. 2010, https://doi.org/10.1145/1852102.1852106, section 3.
    Related: [`TeacherAgreementMetric`] is k = 1.

    Args:
        k (`int`, *optional*, defaults to `10`):
            How many, at least 1; all of a smaller vocabulary, and all that a top-k teacher names where it names fewer.

    Raises:
        ValueError: If k is less than 1.
    """

    k: int = 10

    needs: ClassVar[frozenset[str]] = frozenset({"student", "teacher"})
    logged: ClassVar[bool] = False  # two searches through the vocabulary

    def __post_init__(self) -> None:
        require_count("k", self.k, 1, "Of no tokens there is no share.")

    def per_token(self, views: TokenViews) -> Tensor:
        assert views.teacher is not None  # named in `needs`
        shared = views.shared_vocab("teacher", "student")
        count = min(self.k, shared)
        teacher = views.teacher.most_probable(count, shared)  # (N, k)
        student = views.student.most_probable(teacher.shape[1], shared)
        both = (teacher.unsqueeze(2) == student.unsqueeze(1)).any(2)
        named = (teacher >= 0).sum(1)  # a top-k teacher may name fewer
        return both.sum(1).to(views.student.logits.dtype) / named.clamp(min=1)
