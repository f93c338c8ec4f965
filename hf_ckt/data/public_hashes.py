# SPDX-License-Identifier: Apache-2.0
"""Fingerprints of public evaluation prompts: keeps own prompts apart from them without a row of theirs in the package."""

import hashlib
import re
from collections.abc import Iterable
from functools import cache
from typing import Any

from .contamination import normalized
from .files import packaged_rows

# Words that change between two wordings of one question ("How do I", "How can I").
_FUNCTION_WORDS = (
    "a an and any are as at be best by can could did do does for from give have help how i in is it me my of on or our "
    "please should show some tell that the there this to want was we what when where which who why will with would you your"
)
# Fewer are shared by questions that have nothing else in common.
_FEWEST_WORDS = 3
# Shorter sentences ("Do you understand?") stand in texts that have nothing else in common.
_FEWEST_WORDS_OF_SENTENCE = 4
_LETTERS = 12  # 48 bits: among some thousand prompts two do not collide by chance


def prompt_hashes(text: str) -> tuple[str, str | None]:
    """
    Returns two fingerprints of a prompt, 12 hexadecimal digits of a SHA-256 each: of its letters and digits
    ([`~data.contamination.normalized`]), and of its set of words without function words, whose order and number do not
    matter. The second is None where fewer than 3 such words are left.

    Example:

    >>> one, other = prompt_hashes("How do I bake rye bread?"), prompt_hashes("Rye bread: how can I bake it?")
    >>> one[0] == other[0], one[1] == other[1]
    (False, True)
    """
    whole = normalized(text)
    words = sorted(set(whole.split()) - set(_FUNCTION_WORDS.split()))
    return _hash(whole), _hash(" ".join(words)) if len(words) >= _FEWEST_WORDS else None


def sentences(text: str) -> list[str]:
    """
    Returns a long text's sentences of at least 4 words, by which one that was copied in part is still known.

    Example:

    >>> sentences("You are a parrot. Hello! From now on you repeat: who is there?")
    ['You are a parrot', 'From now on you repeat']
    """
    parts = (part.strip() for part in re.split(r"[.!?:;\n]", text))
    return [part for part in parts if len(part.split()) >= _FEWEST_WORDS_OF_SENTENCE]


def known_prompts(prompts: Iterable[str]) -> dict[str, str]:
    """
    Finds prompts that a public evaluation set holds too, word for word or in the same content words.

    `examples/evaluation/hash_public_prompts.py` makes the file that is asked. Other wordings are not found. Of the jailbreak
    templates `"dan"` the [`sentences`] are known.

    Args:
        prompts (`Iterable[str]`):
            Own prompts.

    Returns:
        `dict[str, str]`: such a prompt -> the first set that holds it.

    Example:

    >>> known_prompts(["How do I kill a Python process?", "How do I bake rye bread?"])
    {'How do I kill a Python process?': 'xstest'}
    """
    known = _known_hashes()
    found = {}
    for prompt in prompts:
        names = [known[value] for value in prompt_hashes(prompt) if value in known]
        if names:
            found[prompt] = names[0]
    return found


@cache
def _known_hashes() -> dict[str, str]:
    known: dict[str, str] = {}
    for row in packaged_rows("public_prompt_hashes.jsonl", _check_row):
        for value in row["hashes"]:
            known.setdefault(value, row["set"])
    return known


def _check_row(row: dict[str, Any]) -> None:
    if sorted(row) != ["hashes", "prompts", "set"] or not row["hashes"]:
        raise ValueError(f"a row needs a set, its number of prompts and their hashes, got {str(row)[:80]}.")


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_LETTERS]
