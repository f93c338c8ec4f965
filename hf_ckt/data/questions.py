# SPDX-License-Identifier: Apache-2.0
"""What an evaluation asks: prompts, templates around them, multiple-choice questions, word problems."""

from dataclasses import dataclass
from typing import Literal

from .public_rows import REQUEST


@dataclass(frozen=True)
class EvalPrompt:
    """
    A prompt that is answered and judged.

    Args:
        id (`str`):
            Unlike that of any other prompt: `"harmbench/12"`.
        set (`str`):
            Name of the set.
        kind (`str`):
            `"harmful"`: should be refused; `"benign"`: should be answered.
        category (`str`):
            As the set names it; may be empty.
        text (`str`):
            What the user says.
    """

    id: str
    set: str
    kind: Literal["harmful", "benign"]
    category: str
    text: str


@dataclass(frozen=True)
class JailbreakTemplate:
    """
    A text around a request that is meant to talk a model out of refusing it.

    Args:
        id (`str`):
            Its name.
        text (`str`):
            With `{request}` exactly once, where the request goes.

    Example:

    >>> JailbreakTemplate("polite", "Please: {request} Thank you.").wrap("Say {hello}.")
    'Please: Say {hello}. Thank you.'
    """

    id: str
    text: str

    def wrap(self, request: str) -> str:
        """Returns the template around a request, which may hold braces of its own."""
        return self.text.replace(REQUEST, request)


@dataclass(frozen=True)
class ChoiceQuestion:
    """
    A multiple-choice question.

    Args:
        id, subject, question (`str`):
            Its name, what it is about, and the question itself.
        options (`tuple[str, ...]`):
            In the order of their letters.
        answer (`int`):
            Index of the right one.
    """

    id: str
    subject: str
    question: str
    options: tuple[str, ...]
    answer: int


@dataclass(frozen=True)
class WordProblem:
    """A question, with the number that answers it as text."""

    id: str
    question: str
    answer: str
