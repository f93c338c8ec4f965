# SPDX-License-Identifier: Apache-2.0
"""What is computed with each model, in pieces that outlive a kill."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

from ...progress.bars import ProgressBar
from .answers import Answer, Write, answer_batch, answers_by, plan_batches
from .backbones import Backbones
from .chat_format import ChatFormat, differing_ids, require_tokens
from .generation import adapter_generation, generation_facts
from .models import EvaluatedModel
from .refusal_openings import COMPLIANCE_OPENINGS, REFUSAL_OPENINGS, Leaning, refusal_leanings
from .store import PieceStore
from .suites import Exchange, Questions
from .text_nats import TextNats, text_nats
from .tiers import Tier
from .utility import choice_answers, choice_prompt
from .weights import loading_of

_ROWS = 16  # of the pieces that generate nothing
_OPENING_TOKENS = 8  # about, that are read behind a prompt for its log-odds
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
        leanings (`dict[str, Leaning]`):
            How far it leans to refusing, by prompt.
        chosen (`list[int]`):
            Option of each multiple-choice question.
        passages (`list[TextNats]`):
            Of the plain text.
        alignment (`list[dict]`):
            Agreement with the teacher, by response: records of `alignment_records.compare_models` with the `id`, `kind`
            and `noise` of the exchange.
        consistency (`dict[tuple[str, str], float]`):
            Token consistency by clean and corrupted prompt, on the model's own answer to the clean one.
    """

    answers: dict[str, Answer] = field(default_factory=dict)
    solutions: dict[str, Answer] = field(default_factory=dict)
    leanings: dict[str, Leaning] = field(default_factory=dict)
    chosen: list[int] = field(default_factory=list)
    passages: list[TextNats] = field(default_factory=list)
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
        teachers (`Mapping[str, EvaluatedModel]`, *optional*):
            What the suite `kd` compares with, by kind of prompt; without any it is left out.
        engine (`Callable`, *optional*):
            `engine(entry, format)` returns what writes in place of transformers' own generation; see `answers.Write`.
        with_consistency (`bool`, *optional*, defaults to `True`):
            Whether token consistency is measured, which reads every corrupted prompt twice more.
        keep_generation_config (`bool`, *optional*, defaults to `False`):
            Whether answers are generated as each model's own generation configuration says, an adapter's first, and not greedily.
    """

    asked: Questions
    tier: Tier
    formats: Mapping[EvaluatedModel, ChatFormat]
    backbones: Backbones
    store: PieceStore
    teachers: Mapping[str, EvaluatedModel] = field(default_factory=dict)
    engine: Callable[[EvaluatedModel, ChatFormat], Write] | None = None
    with_consistency: bool = True
    keep_generation_config: bool = False
    _beside: Callable[..., Any] = field(default_factory=lambda: cache(adapter_generation), init=False, repr=False)

    def generation(self, entry: EvaluatedModel) -> dict[str, Any]:
        """Returns the settings that an entry's answers are made with, read once, and those of its own that are set aside."""
        return generation_facts(
            entry.model,
            self.formats[entry].tokenizer,
            self._beside(entry.adapter, self.keep_generation_config),
            keep_own=self.keep_generation_config,
            trust_remote_code=self.backbones.loading.trust_remote_code,
        )

    def run(self, entries: Sequence[EvaluatedModel]) -> dict[str, Measured]:
        """Returns what each entry made of the questions, by its name, under one progress bar with the time left."""
        found = {entry.name: Measured() for entry in entries}
        responses: dict[Exchange, str] = {}
        taught = list(self._teachers_answers(responses)) if any(map(self.compared, entries)) else []
        stages = {entry.name: list(self._first(entry, found[entry.name])) for entry in entries}
        planned = [piece for pieces in (taught, *stages.values()) for piece in pieces]
        self._require_fit(
            [entry for entry in entries if not all(self.store.has(one.key) for one in stages[entry.name])]
        )
        # Consistency reads every corrupted prompt twice with the answer, and agreement with a teacher reads its answers in
        # three models; which answers is only known later.
        later = 3 * sum(self._length(row["prompt"]) + self.tier.new_tokens for row in self._corrupted())
        later += 3 * sum(self._length(one.prompt) + self.tier.responses[1] for one in self.asked.exchanges)
        done = sum(piece.cost for piece in planned if self.store.has(piece.key))
        total = sum(piece.cost for piece in planned) + later * len(entries)
        with ProgressBar(total=total, initial=done, unit="token", unit_scale=True, desc="evaluating") as bar:
            for name, first in (("teacher", taught), *stages.items()):
                for piece in first:
                    bar.set_description(f"{name}: {piece.key['what']}")
                    known = self.store.has(piece.key)
                    piece.keep(self.store.piece(piece.key, piece.make))
                    bar.update(0 if known else piece.cost)
            for entry in entries:
                pieces = list(self._consistency(entry, found[entry.name]))
                pieces += self._alignment(entry, entries[0], responses, found[entry.name])
                for piece in pieces:
                    bar.set_description(f"{entry.name}: {piece.key['what']}")
                    piece.keep(self.store.piece(piece.key, piece.make))
                    bar.update(later // len(pieces))
        return found

    def _require_fit(self, entries: Sequence[EvaluatedModel]) -> None:
        """Loads the adapters that are going to be asked: one that does not fit should not be found after hours of others."""
        teachers = dict.fromkeys(self.teachers.values()) if entries else {}
        for entry in dict.fromkeys((*entries, *teachers)):
            if entry.adapter is not None:
                with self.backbones.active(entry) as model:
                    trusted = self.backbones.loading.trust_remote_code
                    require_tokens(model, entry, self.formats[entry].tokenizer, trusted)

    def _first(self, entry: EvaluatedModel, measured: Measured) -> Iterator[_Piece]:
        """What depends on nothing that a model has said."""
        prompts = [row["prompt"] for row in self.asked.rows]
        yield from self._answers(entry, "answers", prompts, self.tier.new_tokens, measured.answers)
        problems = [problem.question for problem in self.asked.problems]
        yield from self._answers(entry, "solutions", problems, self.tier.problem_tokens, measured.solutions)
        yield from self._leanings(entry, prompts, measured)
        yield from self._choices(entry, measured)
        yield from self._passages(entry, measured)

    def compared(self, entry: EvaluatedModel) -> bool:
        """Tells whether an entry is read beside a teacher: it is another model, and its tokens mean the same words."""
        others = {kind: one for kind, one in self.teachers.items() if one.identity() != entry.identity()}
        return bool(others) and self.comparable(entry)

    def comparable(self, entry: EvaluatedModel) -> bool:
        """Tells whether an entry and the teachers write the same words under the same ids: else none can be compared."""
        tokenizer = self.formats[entry].tokenizer
        return not any(differing_ids(tokenizer, self.formats[one].tokenizer) for one in self.teachers.values())

    def _teacher(self, exchange: Exchange) -> EvaluatedModel:
        return self.teachers[exchange.kind or "benign"]

    def _teachers_answers(self, into: dict[Exchange, str]) -> Iterator[_Piece]:
        """The responses that agreement is measured on, where they are not given."""
        into |= {one: one.response for one in self.asked.exchanges if one.response is not None}
        open_ones = [one for one in self.asked.exchanges if one.response is None]
        for teacher in dict.fromkeys(map(self._teacher, open_ones)):
            mine = [one for one in open_ones if self._teacher(one) == teacher]
            said: dict[str, Answer] = {}
            prompts = [one.prompt for one in mine]
            for piece in self._answers(teacher, "the teacher's answers", prompts, self.tier.responses[1], said):

                def keep(answers: Any, keep: Any = piece.keep, mine: Any = mine, said: Any = said) -> None:
                    keep(answers)
                    into.update({one: said[one.prompt].text for one in mine if one.prompt in said})

                yield replace(piece, keep=keep)

    def key(self, entry: EvaluatedModel, what: str, **more: Any) -> dict[str, Any]:
        """Returns what a piece of an entry depends on."""
        engine = ("vllm",) if self.engine is not None else ()
        conditions = entry.conditions(loading_of(entry, self.backbones.loading), engine)
        return {"what": what, **conditions, "chat": self.formats[entry].facts(), **more}

    def _answers(
        self, entry: EvaluatedModel, what: str, prompts: Iterable[str], new_tokens: int, into: dict[str, Answer]
    ) -> Iterator[_Piece]:
        asked = self.formats[entry]
        write = None if self.engine is None else self.engine(entry, asked)

        def make(batch: list[str]) -> list[Answer]:
            if write is not None:
                return answers_by(write, asked, batch, new_tokens)
            with self.backbones.active(entry) as model:
                keep = self.keep_generation_config
                settings = {"keep_generation_config": keep, "beside": self._beside(entry.adapter, keep)}
                return answer_batch(model, asked, batch, new_tokens=new_tokens, **settings)

        def keep(batch: list[str], answers: list[Any]) -> None:
            into.update(zip(batch, (Answer(*answer) for answer in answers), strict=True))

        engine = "transformers" if write is None else "vllm"
        settings = {"new_tokens": new_tokens, "engine": engine, "generation": self.generation(entry)}
        for batch, size in plan_batches(asked, prompts, new_tokens=new_tokens):
            key = self.key(entry, what, prompts=batch, **settings)
            cost = size + (_READ_PER_GENERATED - 1) * new_tokens * len(batch)
            yield _Piece(key, cost, partial(make, batch), partial(keep, batch))

    def _leanings(self, entry: EvaluatedModel, prompts: Iterable[str], measured: Measured) -> Iterator[_Piece]:
        def make(batch: list[str]) -> list[Leaning]:
            with self.backbones.active(entry) as model:
                return refusal_leanings(model, self.formats[entry], batch, title=None)

        def keep(batch: list[str], leanings: list[Any]) -> None:
            measured.leanings |= zip(batch, (Leaning(*one) for one in leanings), strict=True)

        openings = {"refusal": [*REFUSAL_OPENINGS], "compliance": [*COMPLIANCE_OPENINGS]}
        for batch, size in plan_batches(self.formats[entry], prompts, new_tokens=_OPENING_TOKENS):
            key = self.key(entry, "refusal log-odds", openings=openings, prompts=batch)
            yield _Piece(key, size, partial(make, batch), partial(keep, batch))

    def _choices(self, entry: EvaluatedModel, measured: Measured) -> Iterator[_Piece]:
        def make(batch: list[Any]) -> list[int]:
            with self.backbones.active(entry) as model:
                return choice_answers(model, self.formats[entry], batch, title=None)

        for batch in _batches(self.asked.choices, _ROWS):
            prompts = [choice_prompt(question) for question in batch]
            key = self.key(entry, "multiple choice", prompts=prompts)
            yield _Piece(key, sum(map(self._length, prompts)), partial(make, batch), measured.chosen.extend)

    def _passages(self, entry: EvaluatedModel, measured: Measured) -> Iterator[_Piece]:
        def make(batch: list[str]) -> list[TextNats]:
            with self.backbones.active(entry) as model:
                return text_nats(model, self.formats[entry].tokenizer, batch, title=None)

        def keep(passages: list[Any]) -> None:
            measured.passages += [TextNats(*one) for one in passages]

        for batch in _batches([passage.text for passage in self.asked.passages], _ROWS):
            key = self.key(entry, "plain text", texts=batch)
            yield _Piece(key, sum(map(self._length, batch)), partial(make, batch), keep)

    def _alignment(
        self, entry: EvaluatedModel, base: EvaluatedModel, responses: Mapping[Exchange, str], measured: Measured
    ) -> Iterator[_Piece]:
        # A teacher that answered nothing has predicted nothing.
        rows = [one for one in self.asked.exchanges if responses.get(one, "").strip()]
        for teacher in dict.fromkeys(map(self._teacher, rows)) if self.compared(entry) else ():
            mine = [(one, responses[one]) for one in rows if self._teacher(one) == teacher]
            yield from self._agreement(entry, base, teacher, mine, measured)

    def _agreement(
        self,
        entry: EvaluatedModel,
        base: EvaluatedModel,
        teacher: EvaluatedModel,
        rows: Sequence[tuple[Exchange, str]],
        measured: Measured,
    ) -> Iterator[_Piece]:
        from .alignment_records import compare_models

        tokens = self.tier.responses[1]
        # How much of the way from the base to the teacher is done asks for a base that is neither of them; one that would
        # be a third backbone in memory is left out.
        apart = base.identity() not in (entry.identity(), teacher.identity())
        measurable = apart and base.model in (entry.model, teacher.model)
        others = [partial(self.backbones.active, base)] if measurable else []
        # A base without a template is asked in an adapter's words, and which one's does not follow from the base.
        lent = {"base_chat": self.formats[base].facts()} if others and self.formats[base].template_source else {}

        def make(batch: list[tuple[Exchange, str]]) -> list[dict[str, Any]]:
            return compare_models(
                partial(self.backbones.active, entry),
                partial(self.backbones.active, teacher),
                self.formats[entry],
                [exchange.prompt for exchange, _ in batch],
                [response for _, response in batch],
                base=others[0] if others else None,
                teacher_tokenizer=self.formats[teacher],
                base_tokenizer=self.formats[base],
                max_tokens=tokens,
            )

        def keep(batch: list[tuple[Exchange, str]], records: list[dict[str, Any]]) -> None:
            for (exchange, _), record in zip(batch, records, strict=True):
                told = {"id": exchange.id, "kind": exchange.kind, "noise": exchange.noise}
                measured.alignment.append(record | told)

        for batch in _batches(rows, _ROWS):
            key = self.key(
                entry,
                "agreement with the teacher",
                teacher=[teacher.identity(), self.formats[teacher].facts()],
                base=base.identity() if others else None,
                max_tokens=tokens,
                rows=[(exchange.prompt, response) for exchange, response in batch],
                **lent,
            )
            yield _Piece(key, 0, partial(make, batch), partial(keep, batch))

    def _consistency(self, entry: EvaluatedModel, measured: Measured) -> Iterator[_Piece]:
        from .token_consistency import token_consistency

        pairs = sorted({(row["request"], row["prompt"]) for row in self._corrupted()})
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
                self.key(entry, "token consistency", rows=batch), 0, partial(make, batch), partial(keep, batch)
            )

    def _corrupted(self) -> list[dict[str, Any]]:
        return [row for row in self.asked.rows if row["corruption"]] if self.with_consistency else []

    def _length(self, text: str) -> int:
        return len(text) // 4 + 24  # about: letters of a token, and the words of a template


def _batches(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(items), size):
        yield list(items[start : start + size])
