# SPDX-License-Identifier: Apache-2.0
"""What is computed with each model, in pieces that outlive a kill."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tqdm import tqdm

from .answers import Answer, Write, answer_batch, answers_by, plan_batches
from .backbones import Backbones
from .chat_format import ChatFormat, differing_ids, require_tokens
from .generation import generation_facts
from .models import EvaluatedModel
from .store import PieceStore
from .suites import Questions
from .tiers import Tier
from .utility import choice_answers, choice_prompt

_ROWS = 16  # of the pieces that generate nothing
# A generated token takes about as long as this many tokens that are only read: on 2 cores, SmolLM2-135M, batches of 64.
_READ_PER_GENERATED = 4


@dataclass
class Measured:
    """
    What one model made of the questions.

    Args:
        answers (`dict[str, Answer]`):
            With their thoughts, by prompt as the user says it.
        solutions (`dict[str, Answer]`):
            Of the word problems, by question.
        margins (`dict[str, float]`):
            Refusal margins in nats, by prompt.
        chosen (`list[int]`):
            Option of each multiple-choice question.
        alignment (`list[dict]`):
            Agreement with the teacher, by response; see `alignment.compare_models`.
        consistency (`dict[tuple[str, str], float]`):
            Token consistency by clean and corrupted prompt, on the model's own answer to the clean one.
    """

    answers: dict[str, Answer] = field(default_factory=dict)
    solutions: dict[str, Answer] = field(default_factory=dict)
    margins: dict[str, float] = field(default_factory=dict)
    chosen: list[int] = field(default_factory=list)
    alignment: list[dict[str, Any]] = field(default_factory=list)
    consistency: dict[tuple[str, str], float] = field(default_factory=dict)


@dataclass(frozen=True)
class _Piece:
    key: dict[str, Any]
    cost: int  # tokens read, or as long as reading them takes
    make: Callable[[], Any]
    keep: Callable[[Any], Any]


@dataclass
class Measurement:
    """
    Measures models on the same questions.

    Args:
        asked ([`Questions`]):
            What all models are asked.
        tier ([`Tier`]):
            Lengths of answers and responses.
        formats (`Mapping[EvaluatedModel, ChatFormat]`):
            How each model is asked, the teacher's among them.
        backbones ([`Backbones`]):
            Where the models come from.
        store ([`PieceStore`]):
            Where finished pieces are kept.
        teacher ([`EvaluatedModel`], *optional*):
            What the suite `kd` compares with.
        engine (`Callable`, *optional*):
            `engine(entry, format)` returns what writes in place of transformers' own generation; see `answers.Write`.
        with_consistency (`bool`, *optional*, defaults to `True`):
            Whether token consistency is measured, which reads every corrupted prompt twice more.
        keep_generation_config (`bool`, *optional*, defaults to `False`):
            Whether answers are generated as each model's own generation configuration says, and not greedily.
    """

    asked: Questions
    tier: Tier
    formats: Mapping[EvaluatedModel, ChatFormat]
    backbones: Backbones
    store: PieceStore
    teacher: EvaluatedModel | None = None
    engine: Callable[[EvaluatedModel, ChatFormat], Write] | None = None
    with_consistency: bool = True
    keep_generation_config: bool = False

    def generation(self, entry: EvaluatedModel) -> dict[str, Any]:
        """Returns the settings that an entry's answers are made with, and those of its own that are set aside."""
        return generation_facts(
            entry.model,
            self.formats[entry].tokenizer,
            keep_own=self.keep_generation_config,
            trust_remote_code=self.backbones.loading.trust_remote_code,
        )

    def run(self, entries: Sequence[EvaluatedModel]) -> dict[str, Measured]:
        """Returns what each entry made of the questions, by its name, under one progress bar with the time left."""
        found = {entry.name: Measured() for entry in entries}
        stages = {entry.name: list(self._first(entry, entries[0], found[entry.name])) for entry in entries}
        planned = [piece for pieces in stages.values() for piece in pieces]
        self._require_fit(
            [entry for entry in entries if not all(self.store.has(one.key) for one in stages[entry.name])]
        )
        # Consistency reads every corrupted prompt twice with the answer; which answer is only known later.
        later = 3 * sum(self._length(row["prompt"]) + self.tier.new_tokens for row in self._corrupted())
        done = sum(piece.cost for piece in planned if self.store.has(piece.key))
        total = sum(piece.cost for piece in planned) + later * len(entries)
        with tqdm(total=total, initial=done, unit="tok", unit_scale=True, desc="evaluating", smoothing=0.1) as bar:
            for entry in entries:
                for piece in stages[entry.name]:
                    bar.set_description(f"{entry.name}: {piece.key['what']}")
                    known = self.store.has(piece.key)
                    piece.keep(self.store.piece(piece.key, piece.make))
                    bar.update(0 if known else piece.cost)
                pieces = list(self._consistency(entry, found[entry.name]))
                for piece in pieces:
                    bar.set_description(f"{entry.name}: {piece.key['what']}")
                    piece.keep(self.store.piece(piece.key, piece.make))
                    bar.update(later // len(pieces))
        return found

    def _require_fit(self, entries: Sequence[EvaluatedModel]) -> None:
        """Loads the adapters that are going to be asked: one that does not fit should not be found after hours of others."""
        teacher = [self.teacher] if entries and self.teacher is not None else []
        for entry in (*entries, *teacher):
            if entry.adapter is not None:
                with self.backbones.active(entry) as model:
                    trusted = self.backbones.loading.trust_remote_code
                    require_tokens(model, entry, self.formats[entry].tokenizer, trusted)

    def _first(self, entry: EvaluatedModel, base: EvaluatedModel, measured: Measured) -> Iterator[_Piece]:
        prompts = [row["prompt"] for row in self.asked.rows]
        yield from self._answers(entry, "answers", prompts, self.tier.new_tokens, measured.answers)
        problems = [problem.question for problem in self.asked.problems]
        yield from self._answers(entry, "solutions", problems, self.tier.problem_tokens, measured.solutions)
        plain = [row["prompt"] for row in self.asked.rows if row["suite"] in ("direct", "overrefusal")]
        yield from self._margins(entry, plain, measured)
        yield from self._choices(entry, measured)
        if self.teacher is not None and self.comparable(entry):
            yield from self._alignment(entry, base, self.teacher, measured)

    def comparable(self, entry: EvaluatedModel) -> bool:
        """Tells whether an entry and the teacher write the same words under the same ids: else none can be compared."""
        teacher = self.teacher
        if teacher is None:
            return False
        return not differing_ids(self.formats[entry].tokenizer, self.formats[teacher].tokenizer)

    def _key(self, entry: EvaluatedModel, what: str, **more: Any) -> dict[str, Any]:
        conditions = entry.conditions(self.backbones.loading, ("torch", "transformers"))
        return {"what": what, **conditions, "chat": self.formats[entry].facts(), **more}

    def _answers(
        self, entry: EvaluatedModel, what: str, prompts: Iterable[str], new_tokens: int, into: dict[str, Answer]
    ) -> Iterator[_Piece]:
        asked = self.formats[entry]

        def make(batch: list[str]) -> list[Answer]:
            if self.engine is not None:
                return answers_by(self.engine(entry, asked), asked, batch, new_tokens)
            with self.backbones.active(entry) as model:
                keep = self.keep_generation_config
                return answer_batch(model, asked, batch, new_tokens=new_tokens, keep_generation_config=keep)

        def keep(batch: list[str], answers: list[Any]) -> None:
            into.update(zip(batch, (Answer(*answer) for answer in answers), strict=True))

        engine = "transformers" if self.engine is None else "vllm"
        settings = {"new_tokens": new_tokens, "engine": engine, "generation": self.generation(entry)}
        for batch, size in plan_batches(asked, prompts, new_tokens=new_tokens):
            key = self._key(entry, what, prompts=batch, **settings)
            cost = size + (_READ_PER_GENERATED - 1) * new_tokens * len(batch)
            yield _Piece(key, cost, partial(make, batch), partial(keep, batch))

    def _margins(self, entry: EvaluatedModel, prompts: Iterable[str], measured: Measured) -> Iterator[_Piece]:
        from .refusal_openings import COMPLIANCE_OPENINGS, REFUSAL_OPENINGS, refusal_margins

        def make(batch: list[str]) -> list[float]:
            with self.backbones.active(entry) as model:
                return refusal_margins(model, self.formats[entry], batch, title=None)

        for batch in _batches(sorted(set(prompts), key=lambda text: (len(text), text)), 2 * _ROWS):
            openings = [[*REFUSAL_OPENINGS], [*COMPLIANCE_OPENINGS]]
            key = self._key(entry, "refusal margins", openings=openings, prompts=batch)
            cost = 2 * sum(map(self._length, batch))
            yield _Piece(key, cost, partial(make, batch), partial(_keep_margins, measured, batch))

    def _choices(self, entry: EvaluatedModel, measured: Measured) -> Iterator[_Piece]:
        def make(batch: list[Any]) -> list[int]:
            with self.backbones.active(entry) as model:
                return choice_answers(model, self.formats[entry], batch, title=None)

        for batch in _batches(self.asked.choices, _ROWS):
            prompts = [choice_prompt(question) for question in batch]
            key = self._key(entry, "multiple choice", prompts=prompts)
            yield _Piece(key, sum(map(self._length, prompts)), partial(make, batch), measured.chosen.extend)

    def _alignment(
        self, entry: EvaluatedModel, base: EvaluatedModel, teacher: EvaluatedModel, measured: Measured
    ) -> Iterator[_Piece]:
        from .alignment_records import compare_models

        tokens = self.tier.responses[1]
        # How much of the way from the base to the teacher is done asks for a base that is neither of them; one that would
        # be a third backbone in memory is left out.
        apart = base.identity() not in (entry.identity(), teacher.identity())
        measurable = apart and base.model in (entry.model, teacher.model)
        others = [partial(self.backbones.active, base)] if measurable else []

        def make(batch: list[tuple[str, str]]) -> list[dict[str, Any]]:
            return compare_models(
                partial(self.backbones.active, entry),
                partial(self.backbones.active, teacher),
                self.formats[entry],
                [prompt for prompt, _ in batch],
                [response for _, response in batch],
                base=others[0] if others else None,
                teacher_tokenizer=self.formats[teacher],
                base_tokenizer=self.formats[base],
                max_tokens=tokens,
            )

        for batch in _batches(self.asked.responses, _ROWS):
            key = self._key(
                entry,
                "agreement with the teacher",
                teacher=[teacher.identity(), self.formats[teacher].facts()],
                base=base.identity() if others else None,
                max_tokens=tokens,
                rows=batch,
            )
            cost = 3 * sum(self._length(prompt) + tokens for prompt, _ in batch)
            yield _Piece(key, cost, partial(make, batch), measured.alignment.extend)

    def _consistency(self, entry: EvaluatedModel, measured: Measured) -> Iterator[_Piece]:
        from .token_consistency import token_consistency

        clean = {row["prompt_id"]: row["prompt"] for row in self.asked.rows if not row["corruption"]}
        pairs = sorted({(clean[row["prompt_id"]], row["prompt"]) for row in self._corrupted()})
        # An empty answer has no prediction that could move.
        answers = {before: measured.answers[before].text for before, _ in pairs}
        rows = [(before, after, answers[before]) for before, after in pairs if answers[before]]

        def make(batch: list[tuple[str, str, str]]) -> list[float]:
            first, second, answers = zip(*batch, strict=True)
            with self.backbones.active(entry) as model:
                return token_consistency(model, self.formats[entry], first, second, answers, title=None)

        def keep(batch: list[tuple[str, str, str]], values: list[float]) -> None:
            measured.consistency |= {row[:2]: value for row, value in zip(batch, values, strict=True)}

        for batch in _batches(rows, _ROWS):
            yield _Piece(
                self._key(entry, "token consistency", rows=batch), 0, partial(make, batch), partial(keep, batch)
            )

    def _corrupted(self) -> list[dict[str, Any]]:
        return [row for row in self.asked.rows if row["corruption"]] if self.with_consistency else []

    def _length(self, text: str) -> int:
        return len(text) // 4 + 24  # about: letters of a token, and the words of a template


def _keep_margins(measured: Measured, batch: list[str], margins: list[float]) -> None:
    measured.margins |= zip(batch, margins, strict=True)


def _batches(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(items), size):
        yield list(items[start : start + size])
