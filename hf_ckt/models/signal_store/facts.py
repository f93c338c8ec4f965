# SPDX-License-Identifier: Apache-2.0
"""What a store says about itself: who taught, over which tokenizer, template and length."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FORMAT = 1
FACTS, INDEX = "facts.json", "index.json"


def digest_of(content: bytes) -> str:
    """Returns 32 hexadecimal digits that differ between two contents."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def file_digest(path: Path) -> str:
    """Returns [`digest_of`] a file's content, read piece by piece."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()  # type: ignore[arg-type]


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """Returns what differs between two tokenizers that give an id to different tokens."""
    vocabulary = sorted((index, token) for token, index in tokenizer.get_vocab().items())
    return digest_of(json.dumps(vocabulary).encode())


def template_fingerprint(template: Any) -> str | None:
    """Returns what differs between two chat templates; None: there is none."""
    return None if template is None else digest_of(json.dumps(template, sort_keys=True).encode())


def teacher_fingerprint(facts: Mapping[str, Any]) -> str:
    """
    Returns what differs between two teachers, of what they are known by.

    Args:
        facts (`Mapping[str, Any]`):
            As of [`~teachers.base.Teacher.facts`]. One that is known by its `weights` has no other name from another folder.
    """
    known = without_names(facts) if knows_weights(facts) else facts
    return digest_of(json.dumps(known, sort_keys=True, default=str).encode())


def knows_weights(facts: Any) -> bool:
    """Returns whether a teacher, or one that it is made of, is known by its weights."""
    return isinstance(facts, Mapping) and ("weights" in facts or any(map(knows_weights, facts.values())))


def without_names(facts: Any) -> Any:
    """Returns what is known without any name: the same teacher may lie in another folder by now."""
    if isinstance(facts, Mapping):
        return {key: without_names(value) for key, value in facts.items() if key != "name"}
    return facts


def store_facts(
    *,
    kind: str,
    dtype: str,
    teachers: Mapping[str, Mapping[str, Any]],
    tokenizer: str | None,
    chat_template: str | None,
    max_length: int | None,
    shards: int,
    rows: str,
    **more: Any,
) -> dict[str, Any]:
    """
    Returns what `facts.json` holds, fit for JSON.

    Args:
        kind (`str`):
            `states` or `top_k`.
        dtype (`str`):
            Of the states, or of the log-probabilities.
        teachers (`Mapping[str, Mapping[str, Any]]`):
            By name, in the order of their numbers (one alone has the name ''): what each is known by and `fingerprint`; of
            states also `states_dtype` (the teacher's own), `width`, and what [`~models.signal_store.writer.write_head`] says;
            of top-k records `vocab_size` and `k`.
        tokenizer (`str`, *optional*), chat_template (`str`, *optional*), max_length (`int`, *optional*):
            Fingerprints of those of the student, and where rows were cut. None: not known, and not compared.
        shards (`int`):
            How many there will be.
        rows (`str`):
            Digest of the keys of all documents in order: a store is continued over the same ones only.
        more (`Any`):
            Further facts.
    """
    return {
        "format": FORMAT,
        "kind": kind,
        "dtype": dtype,
        "teachers": {name: dict(facts) for name, facts in teachers.items()},
        "tokenizer": tokenizer,
        "chat_template": chat_template,
        "max_length": max_length,
        "shards": shards,
        "rows": rows,
        **more,
    }


def differing(begun: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Returns the names of the facts in which two stores differ."""
    return [name for name in wanted if begun.get(name) != wanted[name]]
