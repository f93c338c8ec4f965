# SPDX-License-Identifier: Apache-2.0
"""The part of a card that hf_ckt writes, between two comment lines; all around it is its author's and is left alone."""

import hashlib
import re
from typing import NamedTuple

_NOTE = "the text from here to the last comment line is written anew with each card; write your own above or below it"
_PART = re.compile(r"<!-- hf_ckt (?P<digest>[0-9a-f]{16}): [^\n]* -->\n(?P<text>.*?)\n<!-- /hf_ckt -->\n?", re.S)


class WrittenPart(NamedTuple):
    """
    Where the part stands in a card, and what is in it.

    Args:
        start, end (`int`):
            The characters that it takes, its comment lines among them.
        text (`str`):
            What stands between the comment lines.
        is_changed (`bool`):
            Whether somebody has changed it since it was written.
    """

    start: int
    end: int
    text: str
    is_changed: bool


def with_marks(text: str) -> str:
    """
    Returns a text between the two comment lines.

    Example:

    >>> part = find_written_part("Mine.\\n" + with_marks("# Title") + "Mine too.")
    >>> part.text, part.is_changed
    ('# Title', False)
    """
    text = text.strip("\n")
    return f"<!-- hf_ckt {_digest(text)}: {_NOTE} -->\n{text}\n<!-- /hf_ckt -->\n"


def find_written_part(card: str) -> WrittenPart | None:
    """Returns the part that hf_ckt wrote into a card; None: there is none, the card is by another hand."""
    found = _PART.search(card)
    if found is None:
        return None
    return WrittenPart(*found.span(), found["text"], _digest(found["text"]) != found["digest"])


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
