# SPDX-License-Identifier: Apache-2.0
"""Keeps prompts that were trained on out of an evaluation: a rate on them is recall."""

import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ..checks import require_columns
from .prompt_sets import EvalPrompt

# A shorter prompt may stand in a longer training text by chance; it counts only as a whole one.
_CONTAINED_WORDS = 8
_SHOWN = 5
_SHOWN_LETTERS = 60
# Where TRL's formats hold what users say, and where instruction sets in other formats usually do.
_COLUMNS = ("prompt", "messages", "conversations", "text", "chosen", "question", "instruction")


class _LettersAndDigits(dict[int, int | str | None]):
    """What becomes of a character, by code point, filled in as characters occur."""

    def __missing__(self, code: int) -> int | str | None:
        category = unicodedata.category(chr(code))
        # Accents that no letter is composed with, and characters that are not seen (a zero-width space, say), go without
        # parting the word around them.
        self[code] = code if category[0] in "LN" else None if category[0] == "M" or category == "Cf" else " "
        return self[code]


_LETTERS_AND_DIGITS = _LettersAndDigits()


def normalized(text: str) -> str:
    """
    Returns a text without what does not make it another one: its letters and digits in one case (Unicode NFKC, case
    folded), with single spaces between words.

    Example:

    >>> normalized("How do I  “kill” a process?!")
    'how do i kill a process'
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(folded.translate(_LETTERS_AND_DIGITS).split())


def training_texts(dataset: Any, columns: Sequence[str] | None = None) -> Iterator[str]:
    """
    Yields what users say in a data set of any of TRL's formats: prompts as text or messages, the user's turns of
    conversations (`role` and `content`, or `from` and `value`), and plain text.

    Args:
        dataset ([`~datasets.Dataset`], [`~datasets.IterableDataset`] or an iterable of `dict`):
            Rows of one split.
        columns (`Sequence[str]`, *optional*):
            Where to look. By default wherever texts stand in TRL's formats: `prompt`, `messages`, `conversations`,
            `text`, `chosen`, and `question` and `instruction` besides.

    Raises:
        ValueError: If a named column is missing, or a row has none of the default ones: a check that reads nothing passes
            everything.
        TypeError: If a row is not a `dict`, or a column holds neither text nor messages.

    Example:

    >>> rows = [{"prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who are you?"}]}]
    >>> list(training_texts(rows))
    ['Who are you?']
    """
    known = getattr(dataset, "column_names", None)
    if isinstance(known, list):
        if columns is not None:
            require_columns("training", known, columns, "training_texts")
        looked_at = _present(known, columns)
        if hasattr(dataset, "with_format"):
            dataset = dataset.with_format(None)
        # The rest is not even decoded: a row may hold images.
        dataset = dataset.select_columns(looked_at)
    for row in dataset:
        if not isinstance(row, Mapping):
            raise TypeError(
                f"training_texts: a row must be a dict, got {row!r:.80} ({type(row).__name__}). Pass one split, not a "
                "DatasetDict, and rows rather than texts."
            )
        for name in _present(row, columns):
            yield from _texts(row[name], name)


def _present(names: Iterable[str], columns: Sequence[str] | None) -> list[str]:
    names = list(names)
    found = [name for name in columns or _COLUMNS if name in names]
    if not found:
        raise ValueError(
            f"training_texts: the training data has none of the columns {', '.join(columns or _COLUMNS)} (it has "
            f"{', '.join(names)}), so no prompt would be found in it. Rename the one that holds the texts to text, or "
            "name it in columns in Python."
        )
    return found


def _texts(value: Any, column: str) -> Iterator[str]:
    if isinstance(value, str):
        if value:
            yield value
    elif isinstance(value, Sequence) and all(isinstance(turn, Mapping) for turn in value):
        for turn in value:
            # `from: human` and `value` are ShareGPT's names.
            if (turn.get("role") or turn.get("from")) in ("user", "human"):
                content = turn.get("content") or turn.get("value") or ""
                for block in [content] if isinstance(content, str) else content:
                    text = block if isinstance(block, str) else block.get("text")
                    if text:
                        yield text
    elif value is not None:
        raise TypeError(
            f"training_texts: column {column!r} must hold texts or lists of messages, got {value!r:.80} "
            f"({type(value).__name__}), in which no prompt would be found. Name other columns."
        )


def require_unseen(prompts: Sequence[EvalPrompt], training: Iterable[str]) -> None:
    """
    Raises when an evaluation prompt was trained on.

    That is when, both [`normalized`], it is a training text, or has at least 8 words and stands in one, word for word.
    Reworded prompts are not found. The time taken grows with the training texts alone, not with the number of prompts.

    Args:
        prompts (`Sequence[EvalPrompt]`):
            What will be asked.
        training (`Iterable[str]`):
            What was trained on; read once, one text at a time.

    Raises:
        ValueError: With the number of such prompts and the first of them.

    Example:

    >>> require_unseen([EvalPrompt("mine/0", "mine", "harmful", "", "Pick a lock.")], ["Pick a card."])
    """
    # A prompt without a letter or digit, an emoji say, has nothing left: it is compared as it is.
    wanted = {normalized(prompt.text) or prompt.text for prompt in prompts}
    # Prompts by their first words, with their lengths: texts of those lengths are only cut out where a prompt can begin.
    lengths: dict[tuple[str, ...], set[int]] = {}
    for words in map(str.split, wanted):
        if len(words) >= _CONTAINED_WORDS:
            lengths.setdefault(tuple(words[:_CONTAINED_WORDS]), set()).add(len(words))
    openings = {beginning[0] for beginning in lengths}
    seen: set[str] = set()
    for text in training:
        whole = normalized(text) or text
        if whole in wanted:
            seen.add(whole)
        words = whole.split()
        for start in range(len(words) - _CONTAINED_WORDS + 1):
            if words[start] in openings:
                for length in lengths.get(tuple(words[start : start + _CONTAINED_WORDS]), ()):
                    window = " ".join(words[start : start + length])
                    if window in wanted:
                        seen.add(window)
    found = [prompt for prompt in prompts if (normalized(prompt.text) or prompt.text) in seen]
    if found:
        raise ValueError(
            f"{len(found)} of {len(prompts)} evaluation prompts are in the training data ({listed(found)}), so "
            "their rates would be recall. Evaluate on others, or take them out of the training data."
        )


def listed(prompts: Sequence[EvalPrompt]) -> str:
    """Returns the first of some prompts, as many as a message has room for."""
    shown = "; ".join(f"{prompt.id}: {shortened(prompt.text)!r}" for prompt in prompts[:_SHOWN])
    return shown + ("; ..." if len(prompts) > _SHOWN else "")


def shortened(text: str) -> str:
    """Returns the first letters of a text, as many as a message has room for."""
    return text if len(text) <= _SHOWN_LETTERS else text[:_SHOWN_LETTERS].rstrip() + "..."
