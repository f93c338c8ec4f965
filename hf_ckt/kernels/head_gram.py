# SPDX-License-Identifier: Apache-2.0
"""
Similarities of full-vocabulary logits at hidden-state cost.

Logits are linear in the hidden states, so with C = I - 11^T / V the inner product of two vocabulary-centred logit
vectors is <C z_i, C z_j> = h_i^T (W_1^T C W_2) h_j: three D x D Gram matrices of the two heads give the exact cosine of
every pair, and no `(N, V)` tensor is built. A bias is one more column of W, its hidden unit always 1. A logit scale
cancels in the cosine. A soft cap is not linear: the similarity is of the logits before the cap.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..views import LinearHead

# Rows of the head that are upcast at a time: bounds the extra memory to rows * D * 4 bytes.
_ROWS = 8192


@dataclass
class HeadGram:
    """
    Gram matrices of a student's and a teacher's head over the ids that both share.

    Args:
        student (`torch.Tensor` of shape `(D_s, D_s)`), teacher (`torch.Tensor` of shape `(D_t, D_t)`),
        cross (`torch.Tensor` of shape `(D_s, D_t)`):
            W^T C W of the heads with themselves and with each other, float32 or wider; one more row and column where a
            head has a bias.
    """

    student: Tensor
    teacher: Tensor
    cross: Tensor

    @classmethod
    @torch.no_grad()
    def from_heads(
        cls, student: LinearHead, teacher: LinearHead | Sequence[LinearHead], vocab_size: int | None = None
    ) -> "HeadGram":
        """
        Computes the Gram matrices.

        Args:
            student ([`LinearHead`]):
                `(V_s, D_s)`.
            teacher ([`LinearHead`] or `Sequence[LinearHead]`):
                `(V_t, D_t)`; several side by side are one head of states as [`side_by_side`] lays them out.
            vocab_size (`int`, *optional*):
                Number of ids that both models share, padded rows left out; the smaller head by default.
        """
        teachers = [teacher] if isinstance(teacher, LinearHead) else list(teacher)
        shared = min(head.weight.shape[0] for head in (student, *teachers))
        shared = shared if vocab_size is None else min(shared, vocab_size)
        wide = torch.promote_types(student.weight.dtype, torch.float32)
        device = student.weight.device
        grams: list[Tensor] = []
        sums: list[Tensor] = []
        for start in range(0, shared, _ROWS):
            rows = slice(start, min(start + _ROWS, shared))
            first = _columns(student, rows).to(device, wide)
            columns = [_columns(head, rows).to(device, wide) for head in teachers]
            if len(columns) > 1:
                columns = [each * head.logit_scale for each, head in zip(columns, teachers, strict=True)]
            second = torch.cat(columns, dim=1)
            with whole_float32():
                products = [first.t() @ first, second.t() @ second, first.t() @ second]
            totals = [first.sum(0), second.sum(0)]
            grams = [a + b for a, b in zip(grams, products, strict=True)] if grams else products
            sums = [a + b for a, b in zip(sums, totals, strict=True)] if sums else totals
        means = [total / shared for total in sums]
        return cls(
            student=grams[0] - shared * means[0].outer(means[0]),
            teacher=grams[1] - shared * means[1].outer(means[1]),
            cross=grams[2] - shared * means[0].outer(means[1]),
        )

    def cosines(
        self,
        student: Tensor,
        teacher: Tensor,
        candidates: Tensor,
        *,
        student_mean: Tensor | None = None,
        teacher_mean: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """
        Returns the cosines of vocabulary-centred logits between A anchors and K candidates.

        Args:
            student (`torch.Tensor` of shape `(A, D_s)`), teacher (`torch.Tensor` of shape `(A, D_t)`):
                States of student and teacher at the anchors.
            candidates (`torch.Tensor` of shape `(K, D_t)`):
                States of the teacher at the candidates.
            student_mean (`torch.Tensor` of shape `(D_s,)`, *optional*), teacher_mean (`torch.Tensor` of shape
            `(D_t,)`, *optional*):
                Subtracted from the states first. Linear, so the mean logits are subtracted exactly: without it
                unrelated tokens are far from orthogonal and the negatives carry little.

        Returns:
            `tuple[torch.Tensor, torch.Tensor]`: student-teacher and teacher-teacher cosines, each `(A, K)`; only the
            first carries a gradient.
        """
        device, wide = self.student.device, self.student.dtype
        teacher, candidates = teacher.detach(), candidates.detach()
        student = _centre(student.to(device, wide), student_mean, self.student)
        teacher = _centre(teacher.to(device, wide), teacher_mean, self.teacher)
        candidates = _centre(candidates.to(device, wide), teacher_mean, self.teacher)
        with whole_float32():
            norms = _norms(candidates, self.teacher)
            student_norms, teacher_norms = _norms(student, self.student), _norms(teacher, self.teacher)
            student_teacher = (student @ self.cross) @ candidates.t() / (student_norms[:, None] * norms)
            teacher_teacher = (teacher @ self.teacher) @ candidates.t() / (teacher_norms[:, None] * norms)
        return student_teacher, teacher_teacher


def side_by_side(states: Sequence[tuple[Tensor, LinearHead]], dtype: torch.dtype) -> list[Tensor]:
    """
    Returns states of several heads as states of one: each in the columns of its own head, zeros in those of the others.

    Args:
        states (`Sequence[tuple[torch.Tensor, LinearHead]]`):
            `(N_k, D_k)` and its head, which is another one than that of all before it.
        dtype (`torch.dtype`):
            Of what is returned.

    Returns:
        `list[torch.Tensor]`: `(N_k, D)`, with D the sum of all D_k, and of one more where a head has a bias.
    """
    if len(states) == 1:
        return [states[0][0].to(dtype)]  # its bias is common to all, and left to `cosines`
    widths = [hidden.shape[1] + (head.bias is not None) for hidden, head in states]
    laid_out = []
    for index, (hidden, _) in enumerate(states):
        own = hidden.to(dtype)
        if widths[index] > hidden.shape[1]:
            own = torch.cat([own, own.new_ones(len(own), 1)], dim=1)
        laid_out.append(F.pad(own, (sum(widths[:index]), sum(widths[index + 1 :]))))
    return laid_out


@contextmanager
def whole_float32() -> Iterator[None]:
    """
    Multiplies float32 without TF32 inside, whatever the run allows.

    A Gram matrix is a small difference of large sums, and norms are what similarities are divided by: of TF32's ten bits
    too few would be left. torch has two interfaces for it and refuses to read one where the other was used.
    """
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:
        before = torch.backends.cuda.matmul.fp32_precision
        torch.backends.cuda.matmul.fp32_precision = "ieee"
        try:
            yield
        finally:
            torch.backends.cuda.matmul.fp32_precision = before
        return
    if before == "highest":
        yield
        return
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _columns(head: LinearHead, rows: slice) -> Tensor:
    weight = head.weight[rows]
    return weight if head.bias is None else torch.cat([weight, head.bias[rows, None].to(weight.dtype)], dim=1)


def _centre(states: Tensor, mean: Tensor | None, gram: Tensor) -> Tensor:
    """Appends the unit that carries the head's bias, if it has one, and subtracts the mean."""
    unit = gram.shape[0] - states.shape[-1]
    if mean is not None:
        states = states - mean.to(states.device, states.dtype)
    # The unit is 1 in every state, so it is 0 after centring: the bias is common to all logits.
    return (
        torch.cat([states, states.new_full((states.shape[0], unit), float(mean is None))], dim=-1) if unit else states
    )


def _norms(states: Tensor, gram: Tensor) -> Tensor:
    squares = ((states @ gram) * states).sum(-1)
    # A state equal to the batch mean has no direction; the floor keeps its cosine 0 and its gradient finite.
    floor = torch.finfo(squares.dtype).eps * gram.diagonal().abs().mean().clamp(min=torch.finfo(squares.dtype).tiny)
    return squares.clamp(min=floor).sqrt()
