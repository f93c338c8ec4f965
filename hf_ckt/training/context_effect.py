# SPDX-License-Identifier: Apache-2.0
"""How much a teacher's context changes what it says: a teacher that ignores it teaches nothing."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from ..kernels.signals import TeacherSignal, signal_parts
from ..models.backbone import frozen
from ..models.batch import Batch
from ..teachers.base import Teacher
from ..teachers.privileged_context import PrivilegedContextTeacher
from .collator import read_batch
from .teacher_context import CONTEXT_COLUMNS

# Positions whose whole distributions are held at a time.
_CHUNK = 128
# Less than this share of the probability moved, and no first choice among a thousand, is nothing.
_NOTHING = 1e-3
_PARTIAL = (
    "teacher_model: {} gives less than its whole distribution at each token, of which agreement cannot be computed. Check the "
    "model that it comes from, given as {{'model': ...}}."
)


@dataclass
class ContextEffect:
    """
    What a teacher says at the answers' tokens with its context and without, in means over tokens.

    Args:
        rows (`int`), tokens (`int`):
            Rows that it reads, and their answer tokens.
        acceptance (`float`), first_acceptance (`float`):
            Sum over the vocabulary of the smaller of the two probabilities, in [0, 1]: the share of tokens drawn with the
            context that would be drawn without. Of all tokens, and of the first of each answer.
        changed (`float`), first_changed (`float`):
            Share of tokens at which the most probable one is another, in [0, 1].
        margin_without (`float`), margin (`float`), first_margin_without (`float`), first_margin (`float`):
            Log-probability of the most probable token less that of the second, in nats.
        answer_without (`float`), answer (`float`):
            Log-probability of the data's own tokens, in nats: what the context makes of the answers that are trained on.
    """

    rows: int
    tokens: int
    acceptance: float
    first_acceptance: float
    changed: float
    first_changed: float
    margin_without: float
    margin: float
    first_margin_without: float
    first_margin: float
    answer_without: float
    answer: float

    @property
    def nothing(self) -> bool:
        """Whether the context changes nothing that could be learned."""
        return 1 - self.acceptance < _NOTHING and self.changed < _NOTHING

    def as_text(self, name: str) -> str:
        """Returns a small table, and what it means in a sentence."""
        lines = [
            f"{name}: {self.rows:,} rows, {self.tokens:,} answer tokens",
            f"{'':<44}{'without':>10}{'with':>10}",
            f"{'margin of the first choice (nats)':<44}{self.margin_without:>10.3f}{self.margin:>10.3f}",
            f"{'  at the first token of an answer':<44}{self.first_margin_without:>10.3f}{self.first_margin:>10.3f}",
            f"{'log-probability of an answer token (nats)':<44}{self.answer_without:>10.3f}{self.answer:>10.3f}",
            f"{'':<44}{'all':>10}{'first':>10}",
            f"{'tokens with another first choice':<44}{self.changed:>10.1%}{self.first_changed:>10.1%}",
            f"{'acceptance (sum of the smaller of the two)':<44}{self.acceptance:>10.3f}{self.first_acceptance:>10.3f}",
            "",
        ]
        if self.nothing:
            return "\n".join(
                [
                    *lines,
                    "The context changes nothing: with it the teacher says what it says without, so it would teach nothing "
                    "but that. Write another prompt, or take a teacher that follows it.",
                ]
            )
        drawn = f"{1 - self.acceptance:.1%} of the probability moves"
        return "\n".join(
            [
                *lines,
                f"The context changes the teacher's decision at {self.first_changed:.1%} of the answers; {drawn}.",
            ]
        )


def context_effects(trainer: Any, rows: int) -> dict[str, ContextEffect]:
    """
    Measures on the training data what contexts change in a run's teachers, before it trains.

    Args:
        trainer ([`~training.trainer.ContrastiveRobustTrainer`]):
            Built and not trained.
        rows (`int`):
            Of the training data, evenly spaced; all where there are fewer.

    Returns:
        `dict[str, ContextEffect]`: by the teacher's name in `teachers`, or its own where there is one. One that none of the
        rows names is left out.

    Raises:
        ValueError: If no teacher reads a context, or one gives less than whole distributions.
    """
    teacher = None if trainer.objective is None else trainer._extra_passes.teacher
    members = {} if teacher is None else teacher.parts or {teacher.name: teacher}
    reading = {name: one for name, one in members.items() if isinstance(one, PrivilegedContextTeacher)}
    if not reading:
        raise ValueError(
            "teacher_system_prompt: no teacher that this run reads has a context of its own, so there is nothing to compare. "
            "Give teacher_system_prompt, a column teacher_prompt, or {'privileged_context': <teacher>}."
        )
    lossy = next((name for name, one in reading.items() if one.lossy), None)
    if lossy is not None:
        raise ValueError(_PARTIAL.format(lossy))
    numbers = {name: number for number, name in enumerate(members)}
    found: dict[str, list[tuple[int, Tensor, Tensor]]] = {name: [] for name in reading}
    for batch in _batches(trainer, rows):
        for name, one in reading.items():
            own, _ = batch.of_route(numbers[name])
            if len(own.kept):
                found[name].append(_compared(one, own, trainer._causal_lm))
    return {name: _effect(parts) for name, parts in found.items() if parts}


def _batches(trainer: Any, rows: int) -> Iterator[Batch]:
    dataset = trainer.train_dataset
    count = min(rows, len(dataset))
    chosen = [number * len(dataset) // count for number in range(count)]
    data = dataset.select(chosen).select_columns(["input_ids", "labels", *CONTEXT_COLUMNS])
    size = trainer.args.per_device_train_batch_size
    for start in range(0, count, size):
        examples = [data[place] for place in range(start, min(start + size, count))]
        inputs = trainer._prepare_inputs(trainer.data_collator(examples))
        batch, _ = read_batch(dict(inputs), trainer._marks)
        yield batch


def _compared(teacher: PrivilegedContextTeacher, batch: Batch, student: Any) -> tuple[int, Tensor, Tensor]:
    """How many rows there are, what is measured at each token `(N, 6)`, and which tokens are the first of an answer."""
    documents = batch.kept_documents
    first = torch.ones_like(documents, dtype=torch.bool)
    first[1:] = documents[1:] != documents[:-1]
    both = [_exact(one, batch, student) for one in (teacher, teacher.inner)]
    measured = []
    with torch.no_grad(), frozen(student):
        for rows in torch.arange(len(documents), device=documents.device).split(_CHUNK):
            labels = batch.kept_labels[rows]
            read, plain = (signal.head.logits(signal.select(rows).hidden).log_softmax(-1) for signal in both)
            width = min(read.shape[-1], plain.shape[-1])
            acceptance = torch.minimum(read[:, :width].exp(), plain[:, :width].exp()).sum(-1)
            changed = (read.argmax(-1) != plain.argmax(-1)).float()
            values = [acceptance, changed]
            for one in (plain, read):
                two = one.topk(2).values
                values += [two[:, 0] - two[:, 1], one.gather(1, labels[:, None].to(one.device))[:, 0]]
            measured.append(torch.stack([value.double().cpu() for value in values], 1))
    return int(first.sum()), torch.cat(measured), first.cpu()


def _exact(teacher: Teacher, batch: Batch, student: Any) -> TeacherSignal:
    parts = signal_parts(teacher.signal(batch, student), len(batch.kept))
    signal = parts[0].signal if len(parts) == 1 else None
    if not isinstance(signal, TeacherSignal):
        raise ValueError(_PARTIAL.format(teacher.name))
    return signal


def _effect(parts: list[tuple[int, Tensor, Tensor]]) -> ContextEffect:
    rows = sum(count for count, _, _ in parts)
    values, first = torch.cat([one for _, one, _ in parts]), torch.cat([one for _, _, one in parts])
    every, begins = values.mean(0).tolist(), values[first].mean(0).tolist()
    acceptance, changed, margin_without, answer_without, margin, answer = every
    numbers = [acceptance, begins[0], changed, begins[1], margin_without, margin, begins[2], begins[4]]
    names = [one.name for one in fields(ContextEffect)][2:]
    return ContextEffect(rows, len(values), **dict(zip(names, [*numbers, answer_without, answer], strict=True)))
