# SPDX-License-Identifier: Apache-2.0
"""Documents whose prompt is perturbed as text or as tokens, and whose kept tokens are those of the clean document."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random
from typing import Any, NamedTuple

from trl.data_utils import prepare_multimodal_messages

from ..discovery import part_name
from ..models._upstream import tokenize_example
from ..perturbations.base import TextPerturbation, TokenPerturbation
from .document_batches import Document
from .messages import find_user_texts, perturb_text
from .sources import PromptSources, stable_number
from .stayed_clean import CleanReason, StayedClean


class _Row(NamedTuple):
    """
    The row of a dataset that a document was made from.

    Args:
        text (`dict`):
            `prompt` and `completion`, or `messages`, and what the template was given.
        ids (`list[int]`):
            The row's tokens before truncation.
        start (`int`):
            Where the answer begins in them: the first that counts.
        cut (`int`):
            How many of them, at the front, the document lost to truncation.
    """

    text: dict[str, Any]
    ids: list[int]
    start: int
    cut: int


@dataclass
class NoisyPrompts:
    """
    Perturbs prompts and leaves answers alone.

    Text is perturbed before the chat template, in the messages of the user; system prompts, tools, the template's own
    words and special tokens stay. All tokens that count in the clean document count in the noisy one, in their order.

    Args:
        processing_class (`PreTrainedTokenizerBase` or `ProcessorMixin`):
            The student's.
        sources ([`~noise.sources.PromptSources`]):
            Where the documents' text is found. Token perturbations go without: then every prompt token that is not
            special may change, the template's words among them.
        chat_template (`str`, *optional*):
            Template that the documents were rendered with; the tokenizer's own by default.
        max_length (`int`, *optional*):
            A noisy document longer than this, and longer than its clean one, loses tokens behind its first.
    """

    processing_class: Any
    sources: PromptSources
    chat_template: str | None = None
    max_length: int | None = None
    tokenizer: Any = field(init=False, repr=False)
    special_ids: frozenset[int] = field(init=False, repr=False)
    vocabulary: list[int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.tokenizer = getattr(self.processing_class, "tokenizer", self.processing_class)
        added = {index for index, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        self.special_ids = frozenset(added | set(self.tokenizer.all_special_ids))
        self.vocabulary = [index for index in range(len(self.tokenizer)) if index not in self.special_ids]
        self.stayed_clean = StayedClean()

    def perturb(self, document: Document, part: Any, seed: int) -> Document:
        """
        Returns the noisy document; the clean one where nothing of its prompt can change or its answers would.

        Args:
            document ([`Document`]):
                The clean document.
            part ([`~perturbations.base.TextPerturbation`] or [`~perturbations.base.TokenPerturbation`]):
                What is done to it.
            seed (`int`):
                Seed of the step; with the document's ids it is all that chance depends on.

        Raises:
            ValueError: If a text perturbation meets a document whose text is unknown, or none of the first documents
                can be perturbed.
        """
        if part.severity == 0 or not document.kept:
            return document
        rng = Random(stable_number(document.ids, salt=seed))
        row = self._find_row(document)
        made: Document | CleanReason
        if isinstance(part, TokenPerturbation):
            made = self._edited(document, row, part, rng)
        elif row is None:
            raise ValueError(
                "perturbation: a batch holds a document that is in none of the datasets that this trainer prepared, "
                "so its text is unknown and cannot be perturbed. Give the trainer the dataset itself, not yet "
                "tokenized, or use a perturbation of ids or embeddings."
            )
        else:
            made = self._rewritten(document, row, part, rng)
        if isinstance(made, Document):
            made = self._shortened(made, document)
        if isinstance(made, Document) and made.kept != document.kept:
            made = CleanReason.NOT_ALIGNED
        elif isinstance(made, Document) and made.ids == document.ids:
            made = CleanReason.UNDONE
        self.stayed_clean.note(part_name(part), made if isinstance(made, CleanReason) else None)
        return made if isinstance(made, Document) else document

    def _find_row(self, document: Document) -> _Row | None:
        found = self.sources.find_row(document.ids)
        if found is None:
            return None
        text, whole = found
        ids, labels = whole or document
        start = next((index for index, label in enumerate(labels) if label != -100), len(ids))
        cut = 0 if ids[: len(document.ids)] == document.ids else len(ids) - len(document.ids)
        return _Row(text, ids, start, cut)

    def _shortened(self, noisy: Document, clean: Document) -> Document | CleanReason:
        """The noisy document without as many tokens, behind its first, as it is too long."""
        excess = 0 if self.max_length is None else len(noisy.ids) - max(self.max_length, len(clean.ids))
        if excess <= 0:
            return noisy
        first = next((index for index, label in enumerate(noisy.labels) if label != -100), 0)
        if first - 1 <= excess:
            return CleanReason.CUT_OFF  # nothing of the prompt would be left
        ids, labels = noisy
        return Document(ids[:1] + ids[1 + excess :], labels[:1] + labels[1 + excess :])

    def _rewritten(self, document: Document, row: _Row, part: TextPerturbation, rng: Random) -> Document | CleanReason:
        """The document of a prompt that was perturbed as text."""
        # As TRL decides what a row is.
        column = "messages" if row.text.get("prompt") is None else "prompt"
        prompt = row.text[column]
        noisy = perturb_text(prompt, part, rng)
        if noisy == prompt:
            fully = replace(part, severity=1.0)
            possible = part.severity < 1 and perturb_text(prompt, fully, rng) != prompt
            return CleanReason.CHANCE if possible else CleanReason.NOTHING_TO_CHANGE
        if column == "prompt":
            return self._from_prompt(document, row, noisy)
        return self._from_messages(document, row, noisy)

    def _from_prompt(self, document: Document, row: _Row, noisy_prompt: Any) -> Document | CleanReason:
        """
        Renders the row anew, and puts what comes before its answer in front of the document's.

        Clean and noisy prompt are both rendered with the answer behind them, as the trainer renders a row, and cut where
        it begins. From the first token in which the two differ, the noisy one replaces what stands in the document as far
        from the answer. What stands before that is the document's own: its beginning may have been cut off (a date may
        have changed since).

            row, clean    <u> how do I <a>        then the answer: yes <e>
            row, noisy    <u> ho w do I <a>       first difference behind <u>: 4 tokens from the answer in the clean row
            document      <u> how do I <a> yes <e>
            made          <u> ho w do I <a> yes <e>

        Cut off at its left by two tokens, the document lacks one of those four; so does the noisy prompt:

            document      do I <a> yes <e>
            made          w do I <a> yes <e>

        Printed on another day, only what stands before the first difference is not the row's:

            row, clean    Tuesday <u> how do I <a>
            document      Monday <u> how do I <a> yes <e>
            made          Monday <u> ho w do I <a> yes <e>
        """
        length = row.start - row.cut
        if length <= 0:
            return CleanReason.CUT_OFF
        clean, noisy = self._before_answer(row, row.text["prompt"]), self._before_answer(row, noisy_prompt)
        if clean is None or noisy is None:
            return CleanReason.NOT_ALIGNED
        same = _common_prefix(clean, noisy)
        own = length - (len(clean) - same)  # tokens of the document before the first difference; below 0: lost with it
        head = document.ids[: max(own, 0)] + noisy[same + max(-own, 0) :]
        if not head:
            return CleanReason.CUT_OFF
        return Document(head + document.ids[length:], [-100] * len(head) + document.labels[length:])

    def _before_answer(self, row: _Row, prompt: Any) -> list[int] | None:
        """The tokens of a prompt as they stand before the row's answer; None where the answer is another behind it."""
        if isinstance(prompt, str):
            rendered = tokenize_example(self.processing_class, prompt + row.text["completion"])
        else:
            options = self._template_options(row)
            rendered = tokenize_example(self.processing_class, [*prompt, *row.text["completion"]], **options)
        ids, answer = rendered["input_ids"], row.ids[row.start :]
        length = len(ids) - len(answer)
        return ids[:length] if ids[length:] == answer else None

    def _from_messages(self, document: Document, row: _Row, noisy: list[dict[str, Any]]) -> Document | CleanReason:
        """The whole conversation rendered anew, cut to the answers that truncation left of the clean one."""
        options = self._template_options(row)
        rendered = tokenize_example(self.processing_class, noisy, return_assistant_tokens_mask=True, **options)
        ids, places = rendered["input_ids"], [i for i, bit in enumerate(rendered["assistant_masks"]) if bit]
        kept = document.kept
        first = next(index for index, label in enumerate(document.labels) if index and label != -100)
        if [ids[place] for place in places[: len(kept)]] == kept:
            places, begin = places[: len(kept)], 0
        elif [ids[place] for place in places[-len(kept) :]] == kept:
            places = places[-len(kept) :]
            begin = max(0, places[0] - first)
        else:
            return CleanReason.NOT_ALIGNED
        counts = set(places)
        end = places[-1] + 1 + len(document.ids) - _end_of_kept(document.labels)
        labels = [ids[index] if index in counts else -100 for index in range(begin, min(end, len(ids)))]
        return Document(ids[begin : begin + len(labels)], labels)

    def _edited(
        self, document: Document, row: _Row | None, part: TokenPerturbation, rng: Random
    ) -> Document | CleanReason:
        """The document with some of its prompt's tokens dropped or replaced."""
        content = None if row is None else self._content(row)
        # What follows the last answer is read by no kept position. Where the text is not known, a document's first token
        # may be one of an answer that packing cut.
        end = _end_of_kept(document.labels)
        positions = [
            index
            for index, (token, label) in enumerate(zip(document.ids[:end], document.labels[:end], strict=True))
            if label == -100 and token not in self.special_ids and (index if content is None else index in content)
        ]
        edits = part.edits(positions, self.vocabulary, rng)
        if not edits:
            possible = part.severity < 1 and replace(part, severity=1.0).edits(positions, self.vocabulary, rng)
            return CleanReason.CHANCE if possible else CleanReason.NOTHING_TO_CHANGE
        first = next(index for index, label in enumerate(document.labels) if label != -100)
        if all(edits.get(index, token) is None for index, token in enumerate(document.ids[:first])):
            del edits[0]  # the first token that counts needs one before it
        ids, labels = [], []
        for index, (token, label) in enumerate(zip(*document, strict=True)):
            changed = edits.get(index, token)
            if changed is not None:
                ids.append(changed)
                labels.append(label)
        # A token may be replaced by itself.
        return CleanReason.CHANCE if ids == document.ids else Document(ids, labels)

    def _content(self, row: _Row) -> set[int] | None:
        """Positions, in the document, of tokens within what users wrote; None where that cannot be told."""
        prompt = row.text.get("prompt")
        if isinstance(prompt, str):
            return set(range(row.start - row.cut))
        if not self.tokenizer.is_fast:
            return None
        chat = row.text["messages"] if prompt is None else [*prompt, *(row.text.get("completion") or [])]
        text, spans = find_user_texts(chat, partial(self._render, row))
        rendered = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids, offsets = rendered["input_ids"], rendered["offset_mapping"]
        # From the front, and from the end: between them may stand the date of another day.
        left, right = _common_prefix(ids, row.ids), _common_prefix(ids[::-1], row.ids[::-1])
        found = set()
        for index, (begin, end) in enumerate(offsets):
            if index < left or index >= len(ids) - right:
                place = index if index < left else index + len(row.ids) - len(ids)
                # Many tokens begin with the space before their word, also where that space is the template's.
                if any(low < end <= high and not text[begin:low].strip(" ") for low, high in spans):
                    found.add(place - row.cut)
        return found

    def _render(self, row: _Row, messages: list[dict[str, Any]]) -> str:
        if self.processing_class is not self.tokenizer:
            messages = prepare_multimodal_messages(messages)
        return self.processing_class.apply_chat_template(messages, tokenize=False, **self._template_options(row))

    def _template_options(self, row: _Row) -> dict[str, Any]:
        tools = row.text.get("tools")
        tools = json.loads(tools) if isinstance(tools, str) else tools
        options = row.text.get("chat_template_kwargs") or {}
        return {"chat_template": self.chat_template, "tools": tools, **options}


def _common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    pairs = zip(first, second, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


def _end_of_kept(labels: Sequence[int]) -> int:
    """One more than the last position that counts."""
    return max((index for index, label in enumerate(labels) if label != -100), default=-1) + 1
