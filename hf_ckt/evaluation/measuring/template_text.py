# SPDX-License-Identifier: Apache-2.0
"""What a chat template says by itself: a system prompt that nobody gave is a system prompt all the same."""

import re
from itertools import takewhile
from typing import Any

from .reasoning import render

_FIRST, _ANSWER, _SECOND = "hfcktfirst", "hfcktanswer", "hfcktsecond"
_ROLE = re.compile(r"^\s*(?:system|developer|user|human)\s*(?:\n|:|$)", re.IGNORECASE)
_TOKEN = "\ue000"


def inserted_text(tokenizer: Any, system_prompt: str | None = None, **options: Any) -> str | None:
    """
    Returns what a chat template puts before the first words of a user by itself, without tokens and names of roles that
    only mark whose turn it is; None where that is nothing.

    What stands before every turn of a user is a mark: that before the second one is left out of that before the first.

    Args:
        tokenizer (`PreTrainedTokenizerBase`):
            With a chat template.
        system_prompt (`str`, *optional*):
            What is given as the system message; what is found is then what the template says beside it. None: no such
            message is sent.
        options:
            Of the template.

    Example:

    >>> from types import SimpleNamespace
    >>> def write(messages, **options):
    ...     said = "".join(f"<user>{m['content']}" if m["role"] == "user" else f"<bot>{m['content']}" for m in messages)
    ...     return "<system>Be brief." + said
    >>> inserted_text(SimpleNamespace(apply_chat_template=write, all_special_tokens=["<system>"], added_tokens_decoder={}))
    'Be brief.'
    """
    system = [] if system_prompt is None else [{"role": "system", "content": system_prompt}]
    first = {"role": "user", "content": _FIRST}
    more = [{"role": "assistant", "content": _ANSWER}, {"role": "user", "content": _SECOND}]
    alone = render(tokenizer, [*system, first], **options)
    if alone is None or _FIRST not in alone:
        return None
    special = {*tokenizer.all_special_tokens, *(str(one) for one in tokenizer.added_tokens_decoder.values())}
    tokens = re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))) or "(?!)")
    longer = render(tokenizer, [*system, first, *more], **options) or ""
    mark = longer.partition(_ANSWER)[2].partition(_SECOND)[0] if _SECOND in longer else ""
    # A token is one sign, or two that end alike would have an end in common.
    before, mark = (tokens.sub(_TOKEN, text) for text in (alone.partition(_FIRST)[0], mark))
    said = []
    given = (system_prompt or "").strip()  # some templates strip it
    for text in before.split(given, 1) if given else [before]:
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(text[::-1], mark[::-1], strict=False)))
        text = text[: len(text) - shared]
        said += [_ROLE.sub("", part).strip() for part in text.split(_TOKEN)]
    return "\n".join(filter(None, said)) or None
