# SPDX-License-Identifier: Apache-2.0
"""A causal language model with another tokenizer as the teacher."""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..kernels.mapped_view import SharedTokens
from ..kernels.signals import MappedSignal, RoutedSignal, SignalPart, TeacherSignal, TokenPaths
from ..models._upstream import get_config_model_id
from ..models.batch import Batch, padded
from ..models.foreign_tokenizer import ForeignTokenizer, Match, Reading
from ..models.own_tokenizer import load_tokenizer
from .base import Teacher, TeacherSetup

logger = logging.getLogger(__name__)

# Positions whose logits over the teacher's vocabulary are built at a time.
_ROWS = 64
# Share of the first so many positions below which it is said that few are matched.
_FEW, _FIRST = 0.25, 256


class CrossTokenizerTeacher(Teacher):
    """
    Lets the student learn from a model that cuts texts into other tokens.

    The documents' text is tokenized anew for the teacher. Where both tokenizers have a boundary, it is asked what follows:
    its distribution over the tokens that both have is compared with the student's; all other tokens of each side are one
    bucket, or, with `distillation_loss="universal_logit"`, are compared by rank. Where it writes the student's next token with
    other tokens, their probabilities are multiplied, and the product counts for the student's token. Other positions hear
    no teacher. The log has the share of positions matched (`teacher_matched`), and of those at which a probability was
    moved so (`teacher_merged`).

    Source: Boizard et al. 2024, https://huggingface.co/papers/2402.12030; TRL's GOLD trainer for aligning by text and
    multiplying over merged spans. Differs: a teacher's token that goes beyond the student's counts for it too, as the
    student's token is how such a text begins in its own vocabulary; otherwise it would be taught not to write it. Chat
    templates are not rendered anew: what is text between special tokens stays as it is.
    Related: [`ModelTeacher`] has the student's tokenizer and needs none of this.

    Args:
        teacher (`Teacher`):
            Reads the teacher's own tokens: one that gives hidden states.
        tokenizers (`ForeignTokenizer`):
            The student's and the teacher's.
    """

    lossy = True
    gives = "its distribution over another vocabulary"

    def __init__(self, teacher: Teacher, tokenizers: ForeignTokenizer):
        self.teacher, self.tokenizers = teacher, tokenizers
        self.name = teacher.name
        self.unknown = {}
        pairs = sorted(tokenizers.pairs.items())
        self._shared = SharedTokens(*torch.tensor(pairs, dtype=torch.long).view(-1, 2).T.contiguous())
        self._counts = dict.fromkeys(("kept", "matched", "merged"), 0)
        self._seen: tuple[int, int] | None = 0, 0  # positions matched and kept; None once they were judged

    @classmethod
    def load(  # type: ignore[override]
        cls,
        source: Any,
        setup: TeacherSetup,
        *,
        tokenizer: str | PreTrainedTokenizerBase | None = None,
        token_map: Mapping[Any, str] | None = None,
        init_kwargs: Any = None,
        quantization_config: Any = None,
        load_in_4bit: bool = False,
        load_in_8bit: bool = False,
    ) -> "CrossTokenizerTeacher":
        """
        Loads the model as [`ModelTeacher`] does, and its tokenizer.

        Args:
            source (`str`, `PreTrainedModel`, `PeftModel` or `Mapping`):
                Hub id or folder of a model or of an adapter, or the model; or another kind of teacher that gives hidden
                states, with its settings.
            setup ([`~teachers.base.TeacherSetup`]):
                The run's.
            tokenizer (`str` or `PreTrainedTokenizerBase`, *optional*):
                The teacher's, or its id or folder; looked up under its name when not given.
            token_map (`dict`, *optional*):
                From special tokens of the student to the teacher's text for them, see [`ForeignTokenizer`]. For a teacher
                that chats: `{"<|im_start|>": "<start_of_turn>", "<|im_end|>": "<end_of_turn>"}`.
            init_kwargs (`dict`, *optional*), quantization_config (`BitsAndBytesConfig`, *optional*):
                As in [`ModelTeacher.load`].
            load_in_4bit, load_in_8bit (`bool`, *optional*, defaults to `False`):
                As in [`ModelTeacher.load`].

        Raises:
            ValueError: If the teacher's tokenizer is not found, one of them cannot tell where its tokens lie, they share no
                token, or the teacher is one that gives no hidden states.
        """
        foreign = _tokenizer(source, tokenizer, init_kwargs or {})
        given = {
            "init_kwargs": init_kwargs,
            "quantization_config": quantization_config,
            "load_in_4bit": load_in_4bit,
            "load_in_8bit": load_in_8bit,
        }
        settings = {name: value for name, value in given.items() if value}
        if not isinstance(source, Mapping):
            source = {"model": source, "tokenizer": foreign, **settings}
        elif settings:
            raise ValueError(
                f"cross_tokenizer: {', '.join(settings)} would be ignored, as the teacher is a mapping with settings of its "
                "own. Give them there."
            )
        tokenizers = ForeignTokenizer(setup.tokenizer, foreign, token_map)
        if not tokenizers.pairs:
            raise ValueError(
                "cross_tokenizer: the two tokenizers share no token's text, so nothing could be compared. Use another teacher."
            )
        teacher = setup.build(source, tokenizer=foreign)
        if teacher.lossy or teacher.parts:
            raise ValueError(
                f"cross_tokenizer: {teacher.name} gives no hidden states, so its tokens cannot be matched with the student's. "
                "Use a model, and route or wrap the cross_tokenizer teacher itself."
            )
        return cls(teacher, tokenizers)

    def signal(self, batch: Batch, student: PreTrainedModel) -> RoutedSignal:
        readings, places = self._read(batch)
        device = batch.labels.device
        own, states = _foreign_batch(readings, self.tokenizers.foreign.pad_token_id or 0, device)
        signal = self.teacher.signal(own, student)
        assert isinstance(signal, TeacherSignal)  # of a teacher that is neither lossy nor several
        matches = [(row, match) for row, reading in enumerate(readings) for match in reading.matches]
        labels = (
            batch.inputs["input_ids"].flatten()[torch.tensor(places, dtype=torch.long, device=device) + 1].tolist()
        )
        first = [
            -1 if self._same(readings[row], match, label) else readings[row].ids[match.state + 1]
            for (row, match), label in zip(matches, labels, strict=True)
        ]
        self._count(len(batch.kept), len(matches), sum(index >= 0 for index in first))
        paths = TokenPaths(
            torch.tensor(first, dtype=torch.long, device=device),
            _later(signal, readings, matches, states).to(device),
            SharedTokens(*(ids.to(device) for ids in self._shared)),
        )
        where = torch.tensor([states[row, match.state] for row, match in matches], dtype=torch.long, device=device)
        hidden = signal.hidden.index_select(0, where.to(signal.hidden.device))
        positions = torch.searchsorted(batch.kept, torch.tensor(places, dtype=torch.long, device=device))
        part = SignalPart("", positions, MappedSignal(hidden.to(device), signal.head, paths))
        return RoutedSignal((part,))

    def _read(self, batch: Batch) -> tuple[list[Reading], list[int]]:
        """
        Reads each document in which something counts, and returns at which of the B * T positions their matches lie. Waits
        for the device: the text is read on the host.
        """
        documents = batch.documents
        kept = set(batch.kept.tolist())
        ids = batch.inputs["input_ids"].flatten().tolist()
        tokens: dict[int, list[int]] = {}
        numbers = documents.index.flatten().tolist()
        for place in documents.mask.flatten().nonzero().squeeze(1).tolist():
            tokens.setdefault(numbers[place], []).append(place)
        readings, places = [], []
        for where in tokens.values():
            wanted = [position for position, place in enumerate(where) if place in kept]
            if wanted:
                reading = self.tokenizers.read([ids[place] for place in where], wanted)
                readings.append(reading)
                places += [where[match.position] for match in reading.matches]
        return readings, places

    def _count(self, kept: int, matched: int, merged: int) -> None:
        for name, count in (("kept", kept), ("matched", matched), ("merged", merged)):
            self._counts[name] += count
        if self._seen is None:
            return
        self._seen = self._seen[0] + matched, self._seen[1] + kept
        matched, kept = self._seen
        if kept >= _FIRST:
            self._seen = None
            if matched < _FEW * kept:
                logger.warning(
                    "cross_tokenizer: only %d of the first %d positions are boundaries of both tokenizers, so the teacher (%s) "
                    "says little. Its tokenizer cuts this text into longer tokens; use one that was made for its language.",
                    matched,
                    kept,
                    self.name,
                )

    def _same(self, reading: Reading, match: Match, label: int) -> bool:
        """Whether the teacher's next token is the student's, by its text."""
        return match.end == match.state + 1 and self.tokenizers.pairs.get(label) == reading.ids[match.end]

    @property
    def behind(self) -> list[Teacher]:
        return [self.teacher]

    def facts(self) -> dict[str, Any]:
        return {**self.teacher.facts(), "shared_tokens": len(self.tokenizers.pairs)}

    @property
    def log_names(self) -> list[str]:
        return [*super().log_names, "teacher_matched", "teacher_merged"]

    def take_counts(self, like: Tensor) -> dict[str, Tensor]:
        kept, matched, merged = self._counts.values()
        self._counts = dict.fromkeys(self._counts, 0)
        shares = {"teacher_matched": (matched, kept), "teacher_merged": (merged, matched)}
        # Filled, not copied from the host, which would wait for the device.
        own = {
            name: torch.stack([like.detach().new_full((), count) for count in share]) for name, share in shares.items()
        }
        return super().take_counts(like) | own


def _foreign_batch(
    readings: list[Reading], padding: int, device: torch.device
) -> tuple[Batch, dict[tuple[int, int], int]]:
    """
    Returns the teacher's batch, a document a row, and at which of its kept positions each state that is needed stands. Of no
    document it is a batch of one token that does not count: models in pieces must make the same passes on every rank.
    """
    rows = [reading.ids or [padding] for reading in readings] or [[padding]]
    ids, mask = padded(rows, padding)
    labels = torch.full_like(ids, -100)
    needed = {
        (row, state)
        for row, reading in enumerate(readings)
        for match in reading.matches
        for state in range(match.state, match.end)
    }
    order = sorted(needed)
    if order:
        at, before = torch.tensor(order).unbind(1)
        labels[at, before + 1] = ids[at, before + 1]
    inputs = {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
    return Batch(inputs, labels.to(device)), {key: number for number, key in enumerate(order)}


@torch.no_grad()
def _later(
    signal: TeacherSignal,
    readings: list[Reading],
    matches: list[tuple[int, Match]],
    states: dict[tuple[int, int], int],
) -> Tensor:
    """Log-probability of the tokens of each match behind its first, `(number of matches,)`."""
    asked = [
        (number, states[row, state], readings[row].ids[state + 1])
        for number, (row, match) in enumerate(matches)
        for state in range(match.state + 1, match.end)
    ]
    wide = torch.promote_types(signal.hidden.dtype, torch.float32)
    later = torch.zeros(len(matches), dtype=wide, device=signal.hidden.device)
    for start in range(0, len(asked), _ROWS):
        numbers, rows, tokens = torch.tensor(asked[start : start + _ROWS], device=later.device).unbind(1)
        log_probs = signal.head.logits(signal.hidden[rows]).log_softmax(-1)
        found = log_probs.gather(1, tokens[:, None].to(log_probs.device))[:, 0]
        later.index_add_(0, numbers, found.to(later))
    return later


def _tokenizer(source: Any, given: Any, init_kwargs: Mapping[str, Any]) -> PreTrainedTokenizerBase:
    if given is not None and not isinstance(given, str):
        return given
    if isinstance(source, Mapping):
        init_kwargs = source.get("init_kwargs") or init_kwargs
        source = source.get("model")
    config: Any = getattr(source, "config", None)
    name = given or (source if isinstance(source, str) else config and get_config_model_id(config))
    try:
        return load_tokenizer(name, init_kwargs)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"cross_tokenizer: no tokenizer found under {name!r} ({error}), so the text could not be read to the teacher. "
            "Pass it, or its folder, as tokenizer."
        ) from error
