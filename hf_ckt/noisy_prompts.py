# SPDX-License-Identifier: Apache-2.0
"""Documents whose prompt is perturbed as text or as tokens, and whose kept tokens are those of the clean document."""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from random import Random
from typing import Any

from .document_batches import Document
from .perturbations.base import TextPerturbation, TokenPerturbation
from .sources import Sources, stable_number

logger = logging.getLogger(__name__)

# A prompt's last tokens may differ in the document, where they meet the answer: a merge over the boundary, or a header
# that the template writes otherwise. More than this is another prompt.
_LONGEST_SEAM = 16


@dataclass
class NoisyPrompts:
    """
    Perturbs prompts and leaves answers alone.

    Text is perturbed before the chat template, in the messages of the user; system prompts, tools, the template's own
    words and special tokens stay. All tokens that count in the clean document count in the noisy one, in their order.

    Args:
        tokenizer (`PreTrainedTokenizerBase`):
            The student's.
        sources ([`~sources.Sources`]):
            Where the documents' text is found. Token perturbations go without: then every prompt token that is not
            special may change, the template's words among them.
        chat_template (`str`, *optional*):
            Template that the documents were rendered with; the tokenizer's own by default.
    """

    tokenizer: Any
    sources: Sources
    chat_template: str | None = None
    special_ids: frozenset[int] = field(init=False)
    vocabulary: list[int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        added = {index for index, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        self.special_ids = frozenset(added | set(self.tokenizer.all_special_ids))
        self.vocabulary = [index for index in range(len(self.tokenizer)) if index not in self.special_ids]

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
            ValueError: If a text perturbation meets a document whose text is unknown.
        """
        if part.severity == 0 or all(label == -100 for label in document.labels):
            return document
        rng = Random(stable_number(document.ids, salt=seed))
        if isinstance(part, TokenPerturbation):
            return self._edited(document, part, rng)
        source = self.sources.find(document.ids)
        if source is None:
            raise ValueError(
                "perturbation: a batch holds a document that is in none of the datasets that this trainer prepared, so "
                "its text is unknown and cannot be perturbed. Give the trainer the dataset itself, not yet tokenized, "
                "or use a perturbation of ids or embeddings."
            )
        write = self._from_messages if source.get("messages") is not None else self._from_prompt
        noisy = write(document, source, part, rng)
        if noisy is None or noisy.kept != document.kept:
            _say_unaligned()
            return document
        return noisy

    def _from_prompt(
        self, document: Document, source: dict[str, Any], part: TextPerturbation, rng: Random
    ) -> Document | None:
        """The noisy prompt in front of what the clean document has from the prompt's end on."""
        first = next(index for index, label in enumerate(document.labels) if label != -100)
        head = document.ids[:first]
        clean = self._prompt_ids(source, source["prompt"])
        noisy = self._prompt_ids(source, perturb_text(source["prompt"], part, rng))
        missing = len(clean) - len(head)
        shared = _common_prefix(clean, head)
        if missing > 0 and shared < len(head) and clean[missing:] == head:
            noisy_head = noisy[missing:]  # truncated on the left, by as many tokens here
        elif len(clean) - shared <= _LONGEST_SEAM and (shared or not head):
            noisy_head = noisy[: len(noisy) - (len(clean) - shared)] + head[shared:]
        else:
            return None
        return Document(noisy_head + document.ids[first:], [-100] * len(noisy_head) + document.labels[first:])

    def _from_messages(
        self, document: Document, source: dict[str, Any], part: TextPerturbation, rng: Random
    ) -> Document | None:
        """The whole conversation rendered anew, cut to the answers that truncation left of the clean one."""
        rendered = self.tokenizer.apply_chat_template(
            perturb_text(source["messages"], part, rng),
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
            **self._template_options(source),
        )
        ids, places = rendered["input_ids"], [i for i, bit in enumerate(rendered["assistant_masks"]) if bit]
        kept = document.kept
        first = next(index for index, label in enumerate(document.labels) if label != -100)
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
        positions = [
            index
            for index, (token, label) in enumerate(zip(*document, strict=True))
            if label == -100 and token not in self.special_ids and (content is None or index in content)
        ]
        # What follows the last answer is read by no kept position.
        positions = [index for index in positions if index < _end_of_kept(document.labels)]
        edits = part.edits(positions, self.vocabulary, rng)
        ids, labels = [], []
        for index, (token, label) in enumerate(zip(*document, strict=True)):
            changed = edits.get(index, token)
            if changed is not None:
                ids.append(changed)
                labels.append(label)
        return Document(ids, labels)

    def _content(self, document: Document) -> set[int] | None:
        """Positions of tokens that lie within what the user wrote; None where that cannot be told."""
        source = self.sources.find(document.ids)
        chat = None if source is None else source.get("messages") or source.get("prompt")
        if source is None or not isinstance(chat, list) or not self.tokenizer.is_fast:
            return None
        options = self._template_options(source)
        text = self.tokenizer.apply_chat_template(chat, tokenize=False, **options)
        spans, cursor = [], 0
        for message in chat:
            for content in _texts(message):
                # Some templates strip what they are given.
                place = text.find(content.strip(), cursor)
                if place < 0:
                    return None
                cursor = place + len(content.strip())
                if message["role"] == "user":
                    spans.append((place, cursor))
        rendered = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        shared = _common_prefix(rendered["input_ids"], document.ids)
        inside = {
            index
            for index, (begin, end) in enumerate(rendered["offset_mapping"][:shared])
            if any(low <= begin and end <= high for low, high in spans)
        }
        return inside or None

    def _prompt_ids(self, source: dict[str, Any], prompt: Any) -> list[int]:
        if isinstance(prompt, str):
            return self.tokenizer(text=prompt)["input_ids"]
        return self.tokenizer.apply_chat_template(
            prompt, tokenize=True, return_dict=True, add_generation_prompt=True, **self._template_options(source)
        )["input_ids"]

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
