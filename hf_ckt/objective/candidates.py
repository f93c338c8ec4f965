# SPDX-License-Identifier: Apache-2.0
"""Anchors and candidates of the contrastive role: pooling, batch centring, rejected answers, the queue."""

import logging
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from ..kernels.head_gram import HeadGram
from ..models.batch import Batch
from ..views import LinearHead, Similarities

logger = logging.getLogger(__name__)

LEVELS = ("token", "sequence")


class TeacherQueue:
    """
    First-in-first-out queue of past teacher states: more negatives at hidden width.

    Source: He et al. 2019 (MoCo), https://huggingface.co/papers/1911.05722; the teacher is frozen, so its states do
    not age.

    Args:
        size (`int`):
            States held; 0 holds none.
    """

    def __init__(self, size: int):
        self.size = size
        self.states: Tensor | None = None

    def push(self, states: Tensor) -> None:
        """Appends states `(A, D_t)` and drops the oldest beyond the size."""
        if self.size:
            states = states.detach()
            kept = states if self.states is None else torch.cat([self.states.to(states.device), states])
            self.states = kept[-self.size :].clone()

    def clear(self) -> None:
        """Drops all states: after a step whose states were not finite, which no later step could outlive."""
        self.states = None


@dataclass
class Contrast:
    """
    Settings of the contrastive role that do not belong to its loss.

    Args:
        level (`str`):
            `token`: an anchor is a kept position; `sequence`: the mean over a document's kept positions, which is the
            mean of its logits.
        max_anchors (`int`):
            At most this many anchors, evenly spaced over the kept positions: similarities cost their square.
        queue ([`TeacherQueue`]):
            Past teacher states as further negatives.
        vocab_size (`int`, *optional*):
            Ids that student and teacher share.
    """

    level: str
    max_anchors: int
    queue: TeacherQueue
    vocab_size: int | None = None

    def __post_init__(self) -> None:
        self._gram: HeadGram | None = None

    def similarities(
        self,
        batch: Batch,
        student_hidden: Tensor,
        student_head: LinearHead,
        teacher_hidden: Tensor,
        teacher_head: LinearHead,
        *,
        rejected: tuple[Batch, Tensor] | None = None,
        use_queue: bool = True,
    ) -> Similarities | None:
        """
        Returns the similarities of a batch, or None when it holds fewer than two anchors.

        Args:
            batch ([`~models.batch.Batch`]):
                Where the kept positions lie.
            student_hidden (`torch.Tensor` of shape `(N, D_s)`), teacher_hidden (`torch.Tensor` of shape `(N, D_t)`):
                States at the kept positions.
            rejected (`tuple[Batch, torch.Tensor]`, *optional*):
                The teacher's reading of the rejected answers: hard negatives.
            use_queue (`bool`, *optional*, defaults to `True`):
                Whether the queue's states are candidates, and the batch's join them. Not so in evaluation, whose
                value would move as the queue fills.
        """
        student, teacher = self._pool(batch, student_hidden), self._pool(batch, teacher_hidden.detach())
        if student.shape[0] < 2:
            _say_too_few(self.level)
            return None
        wide = torch.promote_types(student.dtype, torch.float32)
        student, teacher = student.to(wide), teacher.to(wide)
        candidates = [teacher]
        if rejected is not None:
            candidates.append(self._pool(*rejected).to(teacher))
        if use_queue:
            if self.queue.states is not None:
                candidates.append(self.queue.states.to(teacher))
            self.queue.push(teacher)
        student_teacher, teacher_teacher = self._head_gram(student_head, teacher_head).cosines(
            student,
            teacher,
            torch.cat(candidates),
            student_mean=student.mean(0),
            teacher_mean=teacher.mean(0),
        )
        positive = torch.arange(student.shape[0], device=student_teacher.device)
        return Similarities(student_teacher, teacher_teacher, positive)

    def _pool(self, batch: Batch, hidden: Tensor) -> Tensor:
        if self.level == "token":
            count = hidden.shape[0]
            if count <= self.max_anchors:
                return hidden
            # Evenly spaced rather than random: the same for student and teacher, and after a resume.
            return hidden[torch.arange(self.max_anchors, device=hidden.device) * count // self.max_anchors]
        documents, index = torch.unique(batch.kept_documents, return_inverse=True)
        wide = torch.promote_types(hidden.dtype, torch.float32)
        sums = hidden.new_zeros((documents.shape[0], hidden.shape[1]), dtype=wide).index_add(0, index, hidden.to(wide))
        return sums / torch.bincount(index, minlength=documents.shape[0])[:, None]

    def _head_gram(self, student: LinearHead, teacher: LinearHead) -> HeadGram:
        if student.trainable:
            _say_no_gradient()
        if self._gram is None or student.trainable:
            self._gram = HeadGram.from_heads(student, teacher, self.vocab_size)
        return self._gram


@cache
def _say_too_few(level: str) -> None:
    logger.warning(
        "contrastive: a batch held fewer than 2 %s anchors; it contributes 0 to this term. Raise "
        "per_device_train_batch_size if it happens often.",
        level,
    )


@cache
def _say_no_gradient() -> None:
    logger.warning(
        "contrastive: the model's head trains, and this term gives it no gradient: its Gram matrix is computed anew in "
        "each step and taken as a constant. The term trains what lies below the head, and the other terms train both."
    )
