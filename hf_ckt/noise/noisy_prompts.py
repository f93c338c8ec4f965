# SPDX-License-Identifier: Apache-2.0
"""Documents whose prompt is perturbed as text or as tokens, and whose kept tokens are those of the clean document."""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from random import Random
from typing import Any

from ..models._upstream import tokenize_example
from ..perturbations.base import TextPerturbation, TokenPerturbation
from .document_batches import Document
from .sources import PromptSources, stable_number

logger = logging.getLogger(__name__)

# A prompt's last tokens may differ in the document, where they meet the answer: a merge over the boundary, or a header
# that the template writes otherwise. More than this is another prompt.
_LONGEST_SEAM = 16
# Prompts of which none could be aligned before training stops: with so many it is no coincidence.
_PATIENCE = 8


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
        self._tried = self._aligned = 0

    def perturb(self, document: Document, part: Any, seed: int) -> Document:
        """
        Returns the noisy document; the clean one where nothing of its prompt is left or its answers would change.

        Args:
            document ([`Document`]):
                The clean document.
            part ([`~perturbations.base.TextPerturbation`] or [`~perturbations.base.TokenPerturbation`]):
                What is done to it.
            seed (`int`):
                Seed of the step; with the document's ids it is all that chance depends on.

        Raises:
            ValueError: If a text perturbation meets a document whose text is unknown, or none of the first prompts
                can be aligned.
        """
        if part.severity == 0 or not document.kept:
            return document
        rng = Random(stable_number(document.ids, salt=seed))
        if isinstance(part, TokenPerturbation):
            noisy: Document | None = self._edited(document, part, rng)
        else:
            source = self.sources.find(document.ids)
            if source is None:
                raise ValueError(
                    "perturbation: a batch holds a document that is in none of the datasets that this trainer prepared, "
                    "so its text is unknown and cannot be perturbed. Give the trainer the dataset itself, not yet "
                    "tokenized, or use a perturbation of ids or embeddings."
                )
            # As TRL decides what a row is.
            write = self._from_messages if source.get("prompt") is None else self._from_prompt
            noisy = write(document, source, part, rng)
        noisy = None if noisy is None else self._shortened(noisy, len(document.ids))
        self._tried += 1
        if noisy is None or noisy.kept != document.kept:
            self._refuse()
            return document
        self._aligned += 1
        return noisy

    def _refuse(self) -> None:
        """Says that a document stays clean; raises if all did so far."""
        if self._aligned == 0 and self._tried >= _PATIENCE:
            raise ValueError(
                f"perturbation: none of the first {self._tried} noisy prompts could be aligned with the answers, so the "
                "two views would be the same. The tokenizer or chat template renders prompts otherwise than in the "
                "dataset; use a perturbation of embeddings, or render and tokenize the data with this one."
            )
        _say_unaligned()

    def _shortened(self, document: Document, clean_length: int) -> Document | None:
        excess = 0 if self.max_length is None else len(document.ids) - max(self.max_length, clean_length)
        if excess <= 0:
            return document
        first = next((index for index, label in enumerate(document.labels) if label != -100), 0)
        if first - 1 <= excess:
            return None  # nothing of the prompt would be left
        ids, labels = document
        return Document(ids[:1] + ids[1 + excess :], labels[:1] + labels[1 + excess :])

    def _from_prompt(
        self, document: Document, source: dict[str, Any], part: TextPerturbation, rng: Random
    ) -> Document | None:
        """The clean document with the tokens exchanged in which the clean and the noisy prompt differ."""
        first = next(index for index, label in enumerate(document.labels) if index and label != -100)
        head = document.ids[:first]
        prompt = perturb_text(source["prompt"], part, rng)
        clean, noisy = self._prompt_ids(source, source["prompt"]), self._prompt_ids(source, prompt)
        if clean == noisy:
            return document if prompt == source["prompt"] else None
        begin = _common_prefix(clean, noisy)
        after = min(_common_prefix(clean[::-1], noisy[::-1]), len(clean) - begin, len(noisy) - begin)
        end = len(clean) - after  # clean[begin:end] became noisy[begin : len(noisy) - after]
        changed = noisy[begin : len(noisy) - after]
        left, right = _common_prefix(clean, head), _common_prefix(clean[::-1], head[::-1])
        cut = len(clean) - len(head)
        if end <= left:
            new_head = head[:begin] + changed + head[end:]
        elif begin >= len(clean) - right:
            # Something in front differs, such as the date of another day: found from the prompt's end.
            new_head = head[: begin - cut] + changed + head[end - cut :]
        elif cut > 0 and right == len(head):
            # Truncated on the left, within what changed: as many tokens go here, but for the last.
            new_head = noisy[min(cut, len(noisy) - 1) :]
        elif begin < left and len(clean) - left <= _LONGEST_SEAM and len(head) - left <= _LONGEST_SEAM:
            new_head = noisy[: len(noisy) - (len(clean) - left)] + head[left:]
        else:
            return None
        return Document(new_head + document.ids[first:], [-100] * len(new_head) + document.labels[first:])

    def _from_messages(
        self, document: Document, source: dict[str, Any], part: TextPerturbation, rng: Random
    ) -> Document | None:
        """The whole conversation rendered anew, cut to the answers that truncation left of the clean one."""
        rendered = tokenize_example(
            self.processing_class,
            perturb_text(source["messages"], part, rng),
            return_assistant_tokens_mask=True,
            **self._template_options(source),
        )
        ids, places = rendered["input_ids"], [i for i, bit in enumerate(rendered["assistant_masks"]) if bit]
        kept = document.kept
        first = next(index for index, label in enumerate(document.labels) if index and label != -100)
        if [ids[place] for place in places[: len(kept)]] == kept:
            places, begin = places[: len(kept)], 0
        elif [ids[place] for place in places[-len(kept) :]] == kept:
            places = places[-len(kept) :]
            begin = max(0, places[0] - first)
        else:
            return None
        counts = set(places)
        end = places[-1] + 1 + len(document.ids) - _end_of_kept(document.labels)
        labels = [ids[index] if index in counts else -100 for index in range(begin, min(end, len(ids)))]
        return Document(ids[begin : begin + len(labels)], labels)

    def _edited(self, document: Document, part: TokenPerturbation, rng: Random) -> Document:
        content = self._content(document)
        # What follows the last answer is read by no kept position, and a first token would leave the next without one.
        end = _end_of_kept(document.labels)
        positions = [
            index
            for index, (token, label) in enumerate(zip(document.ids[:end], document.labels[:end], strict=True))
            if index and label == -100 and token not in self.special_ids and (content is None or index in content)
        ]
        edits = part.edits(positions, self.vocabulary, rng)
        ids, labels = [], []
        for index, (token, label) in enumerate(zip(*document, strict=True)):
            changed = edits.get(index, token)
            if changed is not None:
                ids.append(changed)
                labels.append(label)
        return Document(ids, labels)

    def _content(self, document: Document) -> set[int] | None:
        """Positions of tokens that lie within what the user wrote; None where the document's text is not known."""
        source = self.sources.find(document.ids)
        chat = None if source is None else source.get("prompt") or source.get("messages")
        if source is None or not isinstance(chat, list) or self.processing_class is not self.tokenizer:
            return None
        if not self.tokenizer.is_fast:
            return None
        target, options = document.ids, self._template_options(source)
        if source.get("prompt") is not None:
            target = target[: next(index for index, label in enumerate(document.labels) if index and label != -100)]
            options["add_generation_prompt"] = True
        text = self.tokenizer.apply_chat_template(chat, tokenize=False, **options)
        spans, cursor = [], 0
        for message in chat:
            for content in _texts(message):
                # Some templates strip what they are given.
                place = text.find(content.strip(), cursor)
                if place < 0:
                    return set()
                cursor = place + len(content.strip())
                if message["role"] == "user":
                    spans.append((place, cursor))
        rendered = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids, offsets = rendered["input_ids"], rendered["offset_mapping"]
        # From the front, and from the end: between them may stand the date of another day, or a cut by truncation.
        left, right = _common_prefix(ids, target), _common_prefix(ids[::-1], target[::-1])
        found = set()
        for index, (begin, end) in enumerate(offsets):
            place = index if index < left else index + len(target) - len(ids)
            aligned = place >= 0 and (index < left or index >= len(ids) - right)
            if aligned and any(low <= begin and end <= high for low, high in spans):
                found.add(place)
        return found

    def _prompt_ids(self, source: dict[str, Any], prompt: Any) -> list[int]:
        if isinstance(prompt, str):
            return tokenize_example(self.processing_class, prompt)["input_ids"]
        options = self._template_options(source)
        return tokenize_example(self.processing_class, prompt, add_generation_prompt=True, **options)["input_ids"]

    def _template_options(self, source: dict[str, Any]) -> dict[str, Any]:
        tools = source.get("tools")
        tools = json.loads(tools) if isinstance(tools, str) else tools
        options = source.get("chat_template_kwargs") or {}
        return {"chat_template": self.chat_template, "tools": tools, **options}


def perturb_text(prompt: Any, part: TextPerturbation, rng: Random) -> Any:
    """Returns a prompt perturbed, or messages of which those of the user are; all chance comes from `rng`."""
    if isinstance(prompt, str):
        return part.apply(prompt, rng)
    return [_rewrite(message, lambda text: part.apply(text, rng)) for message in prompt]


def _rewrite(message: dict[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    content = message["content"]
    if message["role"] != "user" or content is None:
        return message
    if isinstance(content, str):
        return {**message, "content": change(content)}
    return {
        **message,
        "content": [{**block, "text": change(block["text"])} if block.get("text") else block for block in content],
    }


def _texts(message: dict[str, Any]) -> list[str]:
    content = message["content"]
    if isinstance(content, str):
        return [content]
    return [block["text"] for block in content or [] if block.get("text")]


def _common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    pairs = zip(first, second, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


def _end_of_kept(labels: Sequence[int]) -> int:
    """One more than the last position that counts."""
    return max((index for index, label in enumerate(labels) if label != -100), default=-1) + 1


@cache
def _say_unaligned() -> None:
    logger.warning(
        "perturbation: the noisy prompt of a document could not be aligned with its answers, so that document stays "
        "clean. It is said once and may concern more; the tokenizer or chat template renders the prompt otherwise "
        "where the answer follows."
    )
