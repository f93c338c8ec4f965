# SPDX-License-Identifier: Apache-2.0
"""Passages of ordinary text, on which a model's loss shows whether training has harmed what it knew of language."""

from dataclasses import dataclass
from typing import Any

from .files import packaged_rows

# Words of a passage, as they are between spaces.
WORDS = (80, 120)


@dataclass(frozen=True)
class PlainText:
    """
    A passage.

    Args:
        id, kind, text (`str`):
            Its name, what sort of text it is (a recipe, a letter, code), and the passage itself.
    """

    id: str
    kind: str
    text: str


def load_plain_text() -> list[PlainText]:
    """
    Loads the packaged passages: 48 texts of 80 to 120 words, from recipes to code; nothing is downloaded.

    They were written for this package, are no part of its training sets, and hold no prompt to be answered or refused.
    Read without a chat template, their mean -log p in nats a token says what training has cost on text that it was not
    about. The values of two models may be compared where both have the same tokenizer.

    Raises:
        ValueError: If a line of the packaged file cannot be read as a passage.

    Example:

    >>> from hf_ckt.data import load_plain_text
    >>> passages = load_plain_text()
    >>> len(passages), passages[0].kind
    (48, 'news report')
    """
    return [PlainText(**row) for row in packaged_rows("plain_text.jsonl", _check_row)]


def _check_row(row: dict[str, Any]) -> None:
    names = [*PlainText.__dataclass_fields__]
    if sorted(row) != sorted(names) or not all(isinstance(value, str) and value for value in row.values()):
        raise ValueError(f"a passage needs exactly the keys {', '.join(names)}, each with a text, got {row!r}.")
    low, high = WORDS
    if not low <= len(row["text"].split()) <= high:
        raise ValueError(
            f"a passage has {low} to {high} words, so that none weighs more than another, got "
            f"{len(row['text'].split())} in {row['id']}."
        )
