# SPDX-License-Identifier: Apache-2.0
"""Tokens by what a serving engine calls them: text, bytes, or id."""

import json
from collections import defaultdict
from typing import Any


class TokenNames:
    """
    The ids of a tokenizer by their names.

    Args:
        tokenizer (`PreTrainedTokenizerBase`):
            Whose.
    """

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        self.size = len(tokenizer)
        raw = tokenizer.convert_ids_to_tokens(list(range(self.size)))
        decoded = tokenizer.batch_decode(
            [[index] for index in range(self.size)], clean_up_tokenization_spaces=False, skip_special_tokens=False
        )
        added = {index: str(token) for index, token in tokenizer.added_tokens_decoder.items()}
        alphabet = _byte_alphabet() if _is_byte_level(tokenizer) else None
        self._special = set(tokenizer.all_special_ids)
        # By bytes first: of texts, several may be one.
        self._by_bytes: dict[bytes, list[int]] = defaultdict(list)
        self._by_text: list[dict[str, list[int]]] = [defaultdict(list) for _ in range(3)]
        for index, (token, text) in enumerate(zip(raw, decoded, strict=True)):
            if token is None:
                continue
            content = added[index].encode() if index in added else _bytes_of(token, alphabet)
            self._by_bytes[content].append(index)
            exact = content.decode(errors="replace")
            for names, name in zip(self._by_text, (exact, text, token), strict=True):
                names[name].append(index)

    def may_be(self, name: int | str | bytes, index: int) -> bool:
        """Returns whether a token may be called so."""
        if isinstance(name, int):
            return name == index
        if isinstance(name, bytes):
            return index in self._by_bytes.get(name, ())
        # Of special tokens, some servers write no text.
        return any(index in names.get(name, ()) for names in self._by_text) or (not name and index in self._special)

    def id_of(self, name: int | str | bytes) -> int | None:
        """Returns the only token that is called so; None where there are none or several."""
        if isinstance(name, int):
            return name if 0 <= name < self.size else None
        found: list[int] = []
        if isinstance(name, bytes):
            found = self._by_bytes.get(name, [])
        else:
            found = next((names[name] for names in self._by_text if name in names), [])
        return found[0] if len(found) == 1 else None

    def show(self, name: int | str | bytes | None) -> str:
        """Returns what a token is called in messages."""
        if isinstance(name, int):
            text = self.tokenizer.decode([name]) if 0 <= name < self.size else ""
            return f"{text!r} ({name})"
        return repr(name.decode(errors="replace") if isinstance(name, bytes) else name)


def _is_byte_level(tokenizer: Any) -> bool:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return False
    whole = json.loads(backend.to_str())
    return "ByteLevel" in json.dumps([whole.get("decoder"), whole.get("pre_tokenizer")])


def _byte_alphabet() -> dict[str, int]:
    """The letters that byte-level tokenizers write bytes with: printable ones as they are, the others from 256 on."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + place): byte for place, byte in enumerate(others)}


def _bytes_of(token: str, alphabet: dict[str, int] | None) -> bytes:
    if alphabet is not None:
        return bytes(alphabet[letter] for letter in token) if all(one in alphabet for one in token) else token.encode()
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes.fromhex(token[3:5])
    return token.replace("\u2581", " ").encode()
