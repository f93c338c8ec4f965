# SPDX-License-Identifier: Apache-2.0
"""Passages of ordinary text, on which a model's loss shows whether training has harmed what it knew of language."""

from typing import TYPE_CHECKING, Any

from .files import packaged_rows

if TYPE_CHECKING:
    from datasets import Dataset

COLUMNS = ("id", "kind", "text")
# Words of a passage, as they are between spaces.
WORDS = (80, 120)


def load_plain_text() -> "Dataset":
    """
    Loads the packaged passages: 48 texts of 80 to 120 words, from recipes to code; nothing is downloaded.

    They were written for this package, are no part of its training sets, and hold no prompt to be answered or refused.
    Read without a chat template, their mean -log p in nats a token says what training has cost on text that it was not
    about. The values of two models may be compared where both have the same tokenizer.

    Returns:
        [`~datasets.Dataset`] with the string columns `id`, `kind` and `text`.

    Raises:
        ValueError: If a line of the packaged file cannot be read as a row.

    Example:

    >>> from hf_ckt.data import load_plain_text
    >>> passages = load_plain_text()
    >>> len(passages), passages[0]["kind"]
    (48, 'news report')
    """
    # Imported here: the command line reads this module's names without wanting to wait for pyarrow.
    from datasets import Dataset

    rows = packaged_rows("plain_text.jsonl", _check_row)
    return Dataset.from_dict({name: [row[name] for row in rows] for name in COLUMNS})


def _check_row(row: dict[str, Any]) -> None:
    if sorted(row) != sorted(COLUMNS) or not all(isinstance(value, str) and value for value in row.values()):
        raise ValueError(f"a row needs exactly the keys {', '.join(COLUMNS)}, each with a text, got {row!r}.")
    low, high = WORDS
    if not low <= len(row["text"].split()) <= high:
        raise ValueError(
            f"a passage has {low} to {high} words, so that none weighs more than another, got "
            f"{len(row['text'].split())} in {row['id']}."
        )
