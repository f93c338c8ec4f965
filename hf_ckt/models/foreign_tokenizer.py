# SPDX-License-Identifier: Apache-2.0
"""The same text in two tokenizers: where both have a boundary, and which tokens they share."""

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tokenizers.decoders import DecodeStream
from transformers import PreTrainedTokenizerBase

from ..checks import nearest

logger = logging.getLogger(__name__)

_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


class Match(NamedTuple):
    """
    A place in a text where both tokenizers have a boundary, and how the foreign one goes on.

    Args:
        position (`int`):
            Of the own token before it.
        state (`int`):
            Of the foreign token before it.
        end (`int`):
            Of the foreign token with which the text of the next own token is covered; `state + 1` or more.
    """

    position: int
    state: int
    end: int


class Reading(NamedTuple):
    """
    A document in a foreign tokenizer.

    Args:
        ids (`list[int]`):
            Its tokens.
        matches (`list[Match]`):
            Where it meets the document's own, ascending.
    """

    ids: list[int]
    matches: list[Match]


@dataclass
class _Laid:
    """Foreign tokens in the document's coordinates: a character of text is one unit, and so is a special token."""

    ids: list[int] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    stops: list[int] = field(default_factory=list)

    def add(self, index: int, start: int, stop: int) -> None:
        self.ids.append(index)
        self.starts.append(start)
        self.stops.append(stop)


class ForeignTokenizer:
    """
    Reads documents of one tokenizer in another.

    Text is decoded and tokenized anew, between special tokens. A special token becomes what `token_map` says; else the
    token of the same text; else, of an end of sequence, the other's; and nothing otherwise. Before the first token stands
    the beginning of sequence with which the other tokenizer begins its texts, if it does.

    Args:
        own (`PreTrainedTokenizerBase`), foreign (`PreTrainedTokenizerBase`):
            The two.
        token_map (`Mapping`, *optional*):
            From own tokens, text or id, to what stands in their place, as the other tokenizer's text; empty for nothing.

    Raises:
        ValueError: If one of them cannot tell where in a text its tokens lie, or `token_map` names no token.
    """

    def __init__(
        self,
        own: PreTrainedTokenizerBase,
        foreign: PreTrainedTokenizerBase,
        token_map: Mapping[Any, str] | None = None,
    ):
        for whose, tokenizer in (("student", own), ("teacher", foreign)):
            if not getattr(tokenizer, "is_fast", False):
                raise ValueError(
                    f"cross_tokenizer: the {whose}'s tokenizer ({type(tokenizer).__name__}) cannot tell where in a text its "
                    "tokens lie, so nothing could be aligned. Load it with the tokenizers library (a tokenizer.json)."
                )
        self.own, self.foreign = own, foreign
        self._silent: set[int] = set()  # of what it was said, or is wanted, that nothing stands in its place
        self._begins: int | None = None  # read as the other's beginning before a document, and as nothing within
        self.prefix = self._prefix()
        self.replaced = self._replaced(token_map or {})
        """By own special tokens, the foreign ids that stand in their place."""
        self.pairs = self._pairs()
        """From own ids to the foreign one of the same text."""

    def read(self, ids: list[int], wanted: Iterable[int]) -> Reading:
        """
        Reads a document.

        Args:
            ids (`list[int]`):
                Its own tokens.
            wanted (`Iterable[int]`):
                The positions at which a match is looked for, ascending.
        """
        laid, ends = self._lay_out(ids)
        limit = self.foreign.model_max_length
        del laid.ids[limit:], laid.starts[limit:], laid.stops[limit:]
        # Where text that the foreign tokenizer leaves out lies between two of its tokens, both its sides are boundaries.
        boundaries: dict[int, int] = {}
        for state, (stop, following) in enumerate(zip(laid.stops, laid.starts[1:], strict=False)):
            if following >= stop:
                boundaries[stop] = boundaries[following] = state
        matches: list[Match] = []
        for position in wanted:
            if position + 1 >= len(ids):
                continue
            here, there = ends[position], ends[position + 1]
            if here is None or there is None or here not in boundaries:
                continue
            state = boundaries[here]
            end = _covering(laid, state + 1, here, there)
            if end is not None:
                matches.append(Match(position, state, end))
        return Reading(laid.ids, matches)

    def _lay_out(self, ids: list[int]) -> tuple[_Laid, list[int | None]]:
        """The foreign tokens of a document, and where each of its own ends: None within a character."""
        laid, length = _Laid(), 0
        ends: list[int | None] = []
        if self.prefix and self.replaced.get(ids[0] if ids else -1, ())[:1] != self.prefix:
            laid.add(self.prefix[0], 0, 0)
        text, stream = "", DecodeStream(skip_special_tokens=False)
        for index in ids:
            if index not in self.replaced:
                piece = stream.step(self.own.backend_tokenizer, index)
                text, length = text + (piece or ""), length + len(piece or "")
                ends.append(None if piece is None else length)
                continue
            self._tokenize(text, length - len(text), laid)
            text, stream = "", DecodeStream(skip_special_tokens=False)
            for one in self._in_place_of(index, first=length == 0):
                laid.add(one, length, length + 1)
            length += 1
            ends.append(length)
        self._tokenize(text, length - len(text), laid)
        return laid, ends

    def _tokenize(self, text: str, begin: int, laid: _Laid) -> None:
        if not text:
            return
        # What a user wrote is text, also where it reads like a special token.
        encoding: Any = self.foreign(
            text, add_special_tokens=False, return_offsets_mapping=True, split_special_tokens=True, verbose=False
        )
        reached = begin
        for index, (start, stop) in zip(encoding["input_ids"], encoding["offset_mapping"], strict=True):
            # Some leave the spaces around a token out of its offsets.
            laid.add(index, min(begin + start, reached), max(begin + stop, reached))
            reached = laid.stops[-1]

    def _in_place_of(self, index: int, first: bool) -> tuple[int, ...]:
        begins = index == self._begins
        found = () if begins and not first else self.replaced[index]
        if not found and not (begins and first) and index not in self._silent:
            self._silent.add(index)
            token = self.own.convert_ids_to_tokens(index)
            logger.warning(
                "cross_tokenizer: the teacher's tokenizer has no %r, so it reads nothing in its place, and teaches nothing of "
                "it. Say what stands for it: token_map={%r: '<its text for it>'}.",
                token,
                token,
            )
        return found

    def _prefix(self) -> tuple[int, ...]:
        begin = self.foreign.bos_token_id
        return (begin,) if begin is not None and self.foreign("")["input_ids"][:1] == [begin] else ()

    def _replaced(self, token_map: Mapping[Any, str]) -> dict[int, tuple[int, ...]]:
        own, foreign = self.own, self.foreign
        vocabulary, known = own.get_vocab(), foreign.get_vocab()
        found: dict[int, tuple[int, ...]] = {}
        for index in sorted(_special(own)):
            token = own.convert_ids_to_tokens(index)
            if token in known:
                found[index] = (known[token],)
            elif index == own.eos_token_id and foreign.eos_token_id is not None:
                found[index] = (foreign.eos_token_id,)
            else:
                found[index] = ()
        for token, text in token_map.items():
            index = vocabulary.get(token, int(token) if str(token).isdigit() else -1)
            if index not in vocabulary.values() or not isinstance(text, str):
                raise ValueError(
                    f"token_map: {{{token!r}: {text!r}}} must map a token of the student to a text of the teacher, so it would "
                    f"be read nowhere.{nearest(str(token), vocabulary)} For example {{'<|im_end|>': '<end_of_turn>'}}."
                )
            found[index] = tuple(foreign(text, add_special_tokens=False)["input_ids"])
            self._silent.add(index)
        if own.bos_token_id in found and not found[own.bos_token_id] and own.bos_token_id not in self._silent:
            self._begins, found[own.bos_token_id] = own.bos_token_id, self.prefix
        return found

    def _pairs(self) -> dict[int, int]:
        plain = {text: index for index, text in reversed(_texts(self.foreign))}
        found = [(index, ids[0]) for index, ids in self.replaced.items() if len(ids) == 1 and index != self._begins]
        found += [
            (index, plain[text]) for index, text in _texts(self.own) if text in plain and index not in self.replaced
        ]
        pairs: dict[int, int] = {}
        taken = set()
        for index, other in found:
            # One to one, so that each side's shared tokens have their probabilities once.
            if other not in taken:
                pairs[index] = other
                taken.add(other)
        return pairs


def _covering(laid: _Laid, begin: int, here: int, there: int) -> int | None:
    """Which foreign token ends at or behind a place, of those that begin at another; None where they do not begin there."""
    if begin >= len(laid.ids) or laid.starts[begin] != here:
        return None
    for end in range(begin, len(laid.ids)):
        within = end + 1 < len(laid.ids) and laid.starts[end + 1] < laid.stops[end]  # a character in several tokens
        if laid.stops[end] >= there and not within:
            return end
    return None


def _special(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    added = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | set(tokenizer.all_special_ids)


def _texts(tokenizer: PreTrainedTokenizerBase) -> list[tuple[int, str]]:
    """
    Returns each plain token's text within a text; of what is no whole character, its name. Tokens that stand for a byte come
    last: where another has the same text, the tokenizer writes that.
    """
    backend = tokenizer.backend_tokenizer
    special = _special(tokenizer)
    before = tokenizer.encode("a", add_special_tokens=False)
    cut = len(backend.decode(before, skip_special_tokens=False))
    names = {index: token for token, index in tokenizer.get_vocab().items() if index not in special}
    order = sorted(names, key=lambda index: (_BYTE.fullmatch(names[index]) is not None, index))
    decoded = backend.decode_batch([[*before, index] for index in order], skip_special_tokens=False)
    texts = [(index, whole[cut:]) for index, whole in zip(order, decoded, strict=True)]
    return [(index, f"\0{names[index]}" if not text or "\ufffd" in text else text) for index, text in texts]
