# SPDX-License-Identifier: Apache-2.0
"""What users wrote: changed in their messages, and found in the rendering of a chat template."""

import re
from collections.abc import Callable, Sequence
from itertools import count, permutations
from random import Random
from typing import Any

from ..perturbations.base import TextPerturbation

# Marks are digits, which templates neither strip nor escape nor change the case of. All of a mark's digits differ: it
# cannot begin within itself, so digits of the text beside it are not read as part of it.
_DIGITS = ("9081726354", "1029384756")


def perturb_text(prompt: Any, part: TextPerturbation, rng: Random) -> Any:
    """Returns a prompt perturbed, or messages of which those of the user are; all chance comes from `rng`."""
    if isinstance(prompt, str):
        return part.apply(prompt, rng)
    return change_user_texts(prompt, lambda text: part.apply(text, rng))


def change_user_texts(messages: Sequence[dict[str, Any]], change: Callable[[str], str]) -> list[dict[str, Any]]:
    """
    Returns messages in which every text of the user went through `change`, in their order.

    A text is a message's whole content, or a block of it: a string, or a dictionary with the text under `text`. What
    holds no text (no content, as in a tool call; pictures; data) stays as it is.
    """

    def changed(block: Any) -> Any:
        if isinstance(block, str):
            return change(block) if block else block
        text = block.get("text") if isinstance(block, dict) else None
        return {**block, "text": change(text)} if isinstance(text, str) and text else block

    def rewritten(message: dict[str, Any]) -> dict[str, Any]:
        content = message.get("content")
        if message.get("role") != "user" or not isinstance(content, (str, list)):
            return message
        return {**message, "content": changed(content) if isinstance(content, str) else [*map(changed, content)]}

    return [rewritten(message) for message in messages]


def find_user_texts(
    messages: Sequence[dict[str, Any]], render: Callable[[list[dict[str, Any]]], str]
) -> tuple[str, list[tuple[int, int]]]:
    """
    Returns a conversation as its template renders it, and the spans of what users wrote within.

    The rendering itself says where: each text is rendered once more between two marks. So it is found whatever the
    template does to the messages around it, and also where the same words stand elsewhere. A text that shows in no
    rendering, or not for certain, has no span; the others keep theirs.

    Args:
        messages (`Sequence[dict]`):
            The conversation.
        render (`Callable`):
            From messages to text, as the template does.

    Returns:
        `tuple`: the text, and begin and end of each span in it, in their order.

    Example:

    >>> chat = [{"role": "user", "content": " user "}, {"role": "assistant", "content": "Yes?"}]
    >>> find_user_texts(chat, lambda chat: "".join(f"{one['role']}: {one['content'].strip()}\\n" for one in chat))
    ('user: user\\nassistant: Yes?\\n', [(6, 10)])
    """
    plain = render(list(messages))
    marks = [next(m for m in map("".join, permutations(digits)) if m not in plain) for digits in _DIGITS]
    texts: list[str] = []

    def marked(text: str) -> str:
        texts.append(text)
        return _marked(text, *marks)

    unmarked, spans = _read_marks(render(change_user_texts(messages, marked)), *marks)
    if unmarked != plain:
        # A mark changed how something is rendered: each text by itself, so that the others are found all the same.
        spans = [
            span
            for number, text in enumerate(texts)
            for span in _find_one(messages, number, text, plain, marks, render)
        ]
    return plain, sorted(set(spans))


def _find_one(
    messages: Sequence[dict[str, Any]],
    number: int,
    text: str,
    plain: str,
    marks: Sequence[str],
    render: Callable[[list[dict[str, Any]]], str],
) -> list[tuple[int, int]]:
    """Spans of one of the users' texts in a rendering: none where they are not certain."""

    def rendered(change: Callable[[str], str]) -> str:
        numbers = count()
        return render(change_user_texts(messages, lambda one: change(one) if next(numbers) == number else one))

    unmarked, spans = _read_marks(rendered(lambda one: _marked(one, *marks)), *marks)
    if unmarked == plain:
        return spans
    # Rewritten (cut, wrapped, in other letters): it is what stands between the texts around a mark in its place.
    for other in (rendered(lambda one: _replaced(one, marks[0])), rendered(lambda _: marks[0])):
        around = other.split(marks[0])
        if len(around) == 2 and plain.startswith(around[0]) and plain.endswith(around[1]):
            begin, end = len(around[0]), len(plain) - len(around[1])
            if begin < end:
                return [(begin, end)]
    # The template looks at how a text begins or ends, which a mark changes.
    bare = text.strip()
    return [(plain.index(bare), plain.index(bare) + len(bare))] if bare and plain.count(bare) == 1 else []


def _marked(text: str, opening: str, closing: str) -> str:
    return _replaced(text, f"{opening}{text.strip()}{closing}")


def _replaced(text: str, new: str) -> str:
    """Something else within the blanks around a text: some templates strip what they are given."""
    bare = text.strip()
    return text.replace(bare, new, 1) if bare else text


def _read_marks(marked: str, opening: str, closing: str) -> tuple[str | None, list[tuple[int, int]]]:
    """The text without its marks and the spans between them; None where the marks are not in pairs."""
    text, spans = "", []
    begin: int | None = None
    for piece in re.split(f"({opening}|{closing})", marked):
        if piece == opening and begin is None:
            begin = len(text)
        elif piece == closing and begin is not None:
            spans.append((begin, len(text)))
            begin = None
        elif piece in (opening, closing):
            return None, []
        else:
            text += piece
    return (text, spans) if begin is None else (None, [])
