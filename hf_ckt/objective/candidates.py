# SPDX-License-Identifier: Apache-2.0
"""Anchors and candidates of the contrastive role: pooling, batch centring, sides, rejected answers, the queue."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ..kernels.head_gram import HeadGram, side_by_side
from ..kernels.signals import MixedSignal, SignalPart, TeacherSignal
from ..models.batch import Batch
from ..views import LinearHead, Similarities
from .sides import require_sides, sides_of
from .state_contrast import state_similarities

logger = logging.getLogger(__name__)

LEVELS = ("token", "sequence", "decision", "state")
DECIDED = ("decision", "state")  # levels at which a document has one anchor, where its answer is decided, and a side


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
        self.sides: Tensor | None = None
        """Side of each state, where it is known: see [`~objective.sides.sides_of`]."""

    def push(self, states: Tensor, sides: Tensor | None = None) -> None:
        """Appends states `(A, D_t)`, and their sides `(A,)` if they have any, and drops the oldest beyond the size."""
        if not self.size:
            return
        if sides is not None:
            self.drop_without_sides()
        self.sides = None if sides is None else self._appended(self.sides, sides)
        self.states = self._appended(self.states, states)

    def drop_without_sides(self) -> None:
        """Drops states of which no side is known: those of a run that knew of none, which an old checkpoint may hold."""
        if self.states is not None and self.sides is None:
            logger.warning(
                "contrastive: the queue holds %d states of a run without sides, so it is not known which of them would be "
                "false negatives. They are dropped, and the queue fills anew.",
                len(self.states),
            )
            self.clear()

    def clear(self) -> None:
        """Drops all states: after a step whose states were not finite, which no later step could outlive."""
        self.states = self.sides = None

    def _appended(self, held: Tensor | None, new: Tensor) -> Tensor:
        new = new.detach()
        kept = new if held is None else torch.cat([held.to(new.device), new])
        return kept[-self.size :].clone()


@dataclass
class Contrast:
    """
    Settings of the contrastive role that do not belong to its loss.

    Similarities are of logits (at the level `state`, of states) from which the mean over the batch's own anchors is taken. Of few
    anchors it says little, and of two each is then the other's opposite: at the levels of documents, 8 or more in a micro-batch.

    Args:
        level (`str`):
            `token`: an anchor is a kept position; `sequence`: the mean over a document's kept positions, which is the
            mean of its logits; `decision`: the first kept position of a document, see [`decisions`]; `state`: what the
            student's middle layers hold of a document's prompt, see [`~objective.state_contrast.state_similarities`].
        max_anchors (`int`):
            At most this many anchors, evenly spaced over the kept positions: similarities cost their square.
        queue ([`TeacherQueue`]):
            Past teacher states as further negatives.
        vocab_size (`int`, *optional*):
            Ids that student and teacher share.
        layers (`Sequence[int]`, *optional*):
            Those that are read at the level `state`, which needs them.
    """

    level: str
    max_anchors: int
    queue: TeacherQueue
    vocab_size: int | None = None
    layers: Sequence[int] | None = None

    def __post_init__(self) -> None:
        self._gram: HeadGram | None = None
        self._looked = False

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
        hidden_states: Sequence[Tensor] = (),
    ) -> Similarities | None:
        """
        Returns the similarities of a batch, or None when it holds fewer than two anchors (three at the level `state`).

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
            hidden_states (`Sequence[torch.Tensor]`, *optional*):
                The student's, `(B, T, D)` from the embeddings on: all that the level `state` reads beside the sides.
        """
        if self.level == "state":
            return self._of_states(batch, teacher, counts, hidden_states)
        wide = torch.promote_types(student_hidden.dtype, torch.float32)
        heads, places, states = _one_head(teacher, wide)
        counts, sides = self._decided(batch, counts), self._sides(batch, teacher)
        places, states = _where(counts, places, states)
        everywhere = len(places) == len(student_hidden)
        at = None if everywhere else places
        student = self._pool(batch, student_hidden if at is None else student_hidden[places], at)
        anchors = self._pool(batch, states, at)
        if student.shape[0] < 2:
            _say_too_few(self.level, 2)
            return None
        student, anchors = student.to(wide), anchors.to(wide)
        own = None if sides is None else self._spaced(sides[places.to(sides.device)])
        candidates, their_sides = [anchors], [own]
        if rejected is not None:
            _, where, answers = _one_head(rejected[1], wide)
            where, answers = _where(self._decided(rejected[0], None), where, answers)
            whole = len(where) == len(rejected[0].kept)
            candidates.append(self._pool(rejected[0], answers, None if whole else where).to(anchors))
            sides = self._sides(*rejected)
            their_sides.append(None if sides is None else self._spaced(sides[where.to(sides.device)]))
        if use_queue:
            if own is not None:
                self.queue.drop_without_sides()
            if self.queue.states is not None:
                candidates.append(self.queue.states.to(anchors))
                their_sides.append(self.queue.sides)
            self.queue.push(anchors, own)
        student_teacher, teacher_teacher = self._head_gram(student_head, heads).cosines(
            student,
            anchors,
            torch.cat(candidates),
            student_mean=student.mean(0),
            teacher_mean=anchors.mean(0),
        )
        positive = torch.arange(student.shape[0], device=student_teacher.device)
        same_side = None
        if own is not None:
            known = [one.to(positive) for one in their_sides if one is not None]
            same_side = known[0][:, None] == torch.cat(known)
        return Similarities(student_teacher, teacher_teacher, positive, same_side)

    def _of_states(
        self, batch: Batch, teacher: tuple[SignalPart, ...], counts: Tensor | None, hidden_states: Sequence[Tensor]
    ) -> Similarities | None:
        first, sides = self._decided(batch, counts), require_sides(self._sides(batch, teacher))
        assert first is not None and self.layers is not None  # checked before training
        places = self._spaced(first.nonzero().squeeze(1))
        if len(places) < 3:
            _say_too_few(self.level, 3)
            return None
        return state_similarities(hidden_states, batch, batch.kept_documents[places], sides[places], self.layers)

    def _decided(self, batch: Batch, counts: Tensor | None) -> Tensor | None:
        """Where anchors may be: at the decision level, at some of the positions that count."""
        if self.level not in DECIDED:
            return counts
        first = decisions(batch)
        if not self._looked:
            positions = batch.documents.positions.flatten()[batch.kept[first]]
            self._looked = len(positions) > 0
            if self._looked and not positions.any():
                _say_no_prompt(self.level)
        return first if counts is None else first & counts.to(first.device)

    def _sides(self, batch: Batch, teacher: tuple[SignalPart, ...]) -> Tensor | None:
        return sides_of(batch, teacher) if self.level in DECIDED else None

    def _spaced(self, values: Tensor) -> Tensor:
        """At most as many of the anchors' values as there may be anchors."""
        count = values.shape[0]
        if count <= self.max_anchors:
            return values
        # Evenly spaced rather than random: the same for student and teacher, and after a resume.
        return values[torch.arange(self.max_anchors, device=values.device) * count // self.max_anchors]

    def _pool(self, batch: Batch, hidden: Tensor, places: Tensor | None) -> Tensor:
        """Anchors of states at the kept positions, or at some of them."""
        if self.level != "sequence":
            return self._spaced(hidden)
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


def decisions(batch: Batch) -> Tensor:
    """
    Returns at which kept positions a document's answer is decided, `(N,)` boolean.

    That is the first of a document's kept positions: where only answers are trained on, the last position of its prompt,
    whose next token begins to refuse or to answer. Of a conversation in several turns it is the first turn's. What
    predicts another document's token, or is padding, is no position of a document; one without a kept position has none.

    Example:

    >>> labels = torch.tensor([[-100, -100, 4, 5], [-100, 6, -100, 7]])  # two turns in the second row
    >>> decisions(Batch({"input_ids": labels.clamp(min=0)}, labels)).tolist()
    [True, False, True, False]
    """
    documents = batch.documents
    numbers, order = batch.kept_documents, torch.arange(len(batch.kept), device=batch.kept.device)
    within = batch.kept_inside & documents.mask.flatten()[batch.kept]
    # Where the first is looked up and not counted, nothing waits for the device.
    order = order.masked_fill(~within, len(order))
    earliest = order.new_full((documents.count,), len(order)).scatter_reduce_(0, numbers, order, "amin")
    return within & (order == earliest[numbers])


def _where(counts: Tensor | None, places: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
    """Positions and their states, of those that count."""
    if counts is None:
        return places, states
    rows = counts[places.to(counts.device)].nonzero().squeeze(1)
    return places[rows.to(places.device)], states[rows.to(states.device)]


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
    for part in parts:
        for one, weight in _linear(part.signal):
            groups.setdefault((one.head.key, one.head.logit_scale), []).append((part.positions, one, weight))
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
def _say_too_few(level: str, least: int) -> None:
    logger.warning(
        "contrastive: a batch held fewer than %d %s anchors; it contributes 0 to this term. Raise "
        "per_device_train_batch_size if it happens often.",
        least,
        level,
    )


@cache
def _say_no_prompt(level: str) -> None:
    logger.warning(
        "contrastive_level='%s': in the first batch the first token of every document is followed by one that counts, "
        "so nothing of a prompt is read where an answer is to be decided, and the documents look alike. Train on answers "
        "alone (completion_only_loss or assistant_only_loss), or use contrastive_level='sequence'.",
        level,
    )


@cache
def _say_no_gradient() -> None:
    logger.warning(
        "contrastive: the model's head trains, and this term gives it no gradient: its Gram matrix is computed anew in "
        "each step and taken as a constant. The term trains what lies below the head, and the other terms train both."
    )
