# SPDX-License-Identifier: Apache-2.0
"""Anchors and candidates of the contrastive role: pooling, batch centring, rejected answers, the queue."""

import logging
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ..kernels.head_gram import HeadGram, side_by_side
from ..kernels.signals import MixedSignal, SignalPart, TeacherSignal
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
        teacher: tuple[SignalPart, ...],
        *,
        counts: Tensor | None = None,
        rejected: tuple[Batch, tuple[SignalPart, ...]] | None = None,
        use_queue: bool = True,
    ) -> Similarities | None:
        """
        Returns the similarities of a batch, or None when it holds fewer than two anchors.

        Args:
            batch ([`~models.batch.Batch`]):
                Where the kept positions lie.
            student_hidden (`torch.Tensor` of shape `(N, D_s)`):
                States at the kept positions.
            teacher (`tuple[SignalPart, ...]`):
                The exact readings of those at which a teacher speaks. Each teacher has a part in every batch, if an empty
                one: states of different heads lie side by side, in the order of the parts. Of a mixture it is the logits that
                are mixed here.
            counts (`torch.Tensor` of shape `(N,)`, *optional*):
                False at the kept positions that are no anchors. None: all are.
            rejected (`tuple[Batch, tuple[SignalPart, ...]]`, *optional*):
                The teacher's reading of the rejected answers: hard negatives.
            use_queue (`bool`, *optional*, defaults to `True`):
                Whether the queue's states are candidates, and the batch's join them. Not so in evaluation, whose
                value would move as the queue fills.
        """
        wide = torch.promote_types(student_hidden.dtype, torch.float32)
        heads, places, states = _one_head(teacher, wide)
        if counts is not None:
            rows = counts[places.to(counts.device)].nonzero().squeeze(1)
            places, states = places[rows.to(places.device)], states[rows.to(states.device)]
        everywhere = len(places) == len(student_hidden)
        at = None if everywhere else places
        student = self._pool(batch, student_hidden if at is None else student_hidden[places], at)
        anchors = self._pool(batch, states, at)
        if student.shape[0] < 2:
            _say_too_few(self.level)
            return None
        student, anchors = student.to(wide), anchors.to(wide)
        candidates = [anchors]
        if rejected is not None:
            _, where, answers = _one_head(rejected[1], wide)
            whole = len(where) == len(rejected[0].kept)
            candidates.append(self._pool(rejected[0], answers, None if whole else where).to(anchors))
        if use_queue:
            if self.queue.states is not None:
                candidates.append(self.queue.states.to(anchors))
            self.queue.push(anchors)
        student_teacher, teacher_teacher = self._head_gram(student_head, heads).cosines(
            student,
            anchors,
            torch.cat(candidates),
            student_mean=student.mean(0),
            teacher_mean=anchors.mean(0),
        )
        positive = torch.arange(student.shape[0], device=student_teacher.device)
        return Similarities(student_teacher, teacher_teacher, positive)

    def _pool(self, batch: Batch, hidden: Tensor, places: Tensor | None) -> Tensor:
        """Anchors of states at the kept positions, or at some of them."""
        if self.level == "token":
            count = hidden.shape[0]
            if count <= self.max_anchors:
                return hidden
            # Evenly spaced rather than random: the same for student and teacher, and after a resume.
            return hidden[torch.arange(self.max_anchors, device=hidden.device) * count // self.max_anchors]
        numbers = batch.kept_documents if places is None else batch.kept_documents[places]
        documents, index = torch.unique(numbers, return_inverse=True)
        wide = torch.promote_types(hidden.dtype, torch.float32)
        sums = hidden.new_zeros((documents.shape[0], hidden.shape[1]), dtype=wide).index_add(0, index, hidden.to(wide))
        return sums / torch.bincount(index, minlength=documents.shape[0])[:, None]

    def _head_gram(self, student: LinearHead, teachers: list[LinearHead]) -> HeadGram:
        if student.trainable:
            _say_no_gradient()
        if self._gram is None or student.trainable:
            self._gram = HeadGram.from_heads(student, teachers, self.vocab_size)
        return self._gram


def _one_head(parts: tuple[SignalPart, ...], dtype: torch.dtype) -> tuple[list[LinearHead], Tensor, Tensor]:
    """
    Returns the different heads of a reading, its positions, ascending, and their states under all heads as one.

    Of a mixture these are the states of the two teachers' weighted logits, w z_1 + (1 - w) z_2, which are linear in them; the
    mixture of their probabilities has none.
    """
    only = parts[0].signal if len(parts) == 1 else None
    if isinstance(only, TeacherSignal):
        return [only.head], parts[0].positions, only.hidden.detach()
    groups: dict[tuple, list[tuple[Tensor, TeacherSignal, Tensor | None]]] = {}
    for _, positions, signal in parts:
        for one, weight in _linear(signal):
            groups.setdefault((one.head.key, one.head.logit_scale), []).append((positions, one, weight))
    members = [member for group in groups.values() for member in group]
    heads = [group[0][1].head for group in groups.values()]
    joined = [torch.cat([one.hidden for _, one, _ in group]) for group in groups.values()]
    states = torch.cat(side_by_side(list(zip(joined, heads, strict=True)), dtype)).detach()
    places = torch.cat([positions for positions, _, _ in members])
    if all(weight is None for _, _, weight in members):
        order = places.argsort()
        return heads, places[order], states[order.to(states.device)]
    weights = [torch.ones(len(one.hidden)) if weight is None else weight for _, one, weight in members]
    states = states * torch.cat([weight.to(states) for weight in weights])[:, None]
    # Each position once, with the sum of what its teachers have there.
    places, index = torch.unique(places, return_inverse=True)
    return heads, places, states.new_zeros(len(places), states.shape[1]).index_add(0, index.to(states.device), states)


def _linear(signal: Any) -> tuple[tuple[TeacherSignal, Tensor | None], ...]:
    """The readings that a signal is made of, each with its weight at each position; None: of 1."""
    if isinstance(signal, MixedSignal):
        return signal.weighted()
    assert isinstance(signal, TeacherSignal)  # checked before training
    return ((signal, None),)


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
