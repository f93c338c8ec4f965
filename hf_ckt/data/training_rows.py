# SPDX-License-Identifier: Apache-2.0
"""Tells what cannot be trained on in a data set, by its row, before a model is loaded."""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from .files import place_of_row, shown_name

if TYPE_CHECKING:
    from .row_marks import RowMarks

# Names that other tools give to what is asked and what is answered.
_QUESTIONS = ("question", "instruction", "query", "input", "problem", "user")
_ANSWERS = ("answer", "response", "output", "solution", "assistant", "target", "label", "chosen", "text")
# Rows of a streaming data set that are looked at: reading all of it would take as long as an epoch's reading.
_STREAMED = 1000
_BATCH = 1000
# What a chat template is given beside the messages.
_TEMPLATE_COLUMNS = ("tools", "chat_template_kwargs")


def require_trainable(dataset: Any, source: str, *, text_field: str = "text", rejected: bool = False) -> None:
    """
    Raises unless every row is in one of the formats that `SFTTrainer` prepares: `prompt` and `completion` as texts or as
    messages, `messages`, `conversations` (`from` and `value`), a text, or token ids.

    Args:
        dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`]):
            One split; of a streaming one the first 1000 rows are read.
        source (`str`):
            Where it was read from, for messages.
        text_field (`str`, *optional*, defaults to `"text"`):
            Column of plain texts.
        rejected (`bool`, *optional*, defaults to `False`):
            Whether the columns are `prompt`, `chosen` and `rejected`.

    Raises:
        ValueError: If a column is missing, or a row holds no text, a message without role or content, or texts where
            the first row has messages; it names the row, and the line where that is known.

    Example:

    >>> from datasets import Dataset
    >>> require_trainable(Dataset.from_dict({"prompt": ["Hi"], "completion": ["Hello"]}), "rows.jsonl")
    >>> require_trainable(Dataset.from_dict({"question": ["Hi"], "answer": ["Hello"]}), "rows.jsonl")
    Traceback (most recent call last):
    ...
    ValueError: rows.jsonl: has the columns question, answer, of which none is trained on. Rename question to prompt, answer to completion.
    """
    first = next(iter(dataset), None)
    if first is None:
        raise ValueError(f"{shown_name(source)}: holds no row, so there is nothing to train on. Give at least one.")
    columns = list(dataset.column_names or first)
    if "input_ids" in columns:
        _require_ids(dataset, source)
        return
    needed = _needed(columns, text_field, rejected)
    missing = [name for name in needed if name not in columns]
    if missing:
        none = (
            f"of which none is trained on. {_renaming(columns, text_field)}"
            if needed == [text_field]
            else f"and no {missing[0]!r}, without which a 'prompt' is not trained on. {_completing(columns)}"
        )
        raise ValueError(f"{shown_name(source)}: has the columns {', '.join(columns)}, {none}")
    if _all_texts(dataset, needed):
        return
    conversational = isinstance(first[needed[0]], list)
    read = [*needed, *(name for name in _TEMPLATE_COLUMNS if name in columns)]
    for index, row in enumerate(_rows(dataset, read)):
        problem = _problem(row, text_field, conversational)
        if problem:
            raise ValueError(f"{place_of_row(source, index)}: {problem}")


def require_renderable(dataset: Any, source: str, tokenizer: Any) -> None:
    """
    Raises ValueError at the first chat that a tokenizer's template refuses, a system turn or two turns of one role say,
    and names its row. Reads as [`require_trainable`] does.

    Args:
        dataset, source:
            As for [`require_trainable`].
        tokenizer (`PreTrainedTokenizerBase`):
            With a chat template.
    """
    from jinja2 import TemplateError

    for index, row in enumerate(islice(dataset, None if hasattr(dataset, "select") else _STREAMED)):
        chat = [*(row.get("prompt") or []), *(row.get("completion") or row.get("messages") or [])]
        if not all(isinstance(message, Mapping) for message in chat):
            continue
        tools = json.loads(row["tools"]) if isinstance(row.get("tools"), str) else row.get("tools")
        try:
            tokenizer.apply_chat_template(chat, tools=tools, tokenize=False, **(row.get("chat_template_kwargs") or {}))
        except TemplateError as error:
            raise ValueError(
                f"{place_of_row(source, index)}: the model's chat template refuses it ({error}). Change the row's messages, or "
                "name another template as chat_template_path."
            ) from error


def require_marks(dataset: Any, source: str, marks: "RowMarks", *, training: bool = True) -> None:
    """
    Raises ValueError at the first row that names a teacher that there is not, or where a training set has no column that a
    setting asks for. Reads as [`require_trainable`] does.

    Args:
        dataset, source:
            As for [`require_trainable`].
        marks ([`~data.row_marks.RowMarks`]):
            The run's teachers and rules.
        training (`bool`, *optional*, defaults to `True`):
            Whether the columns must be there.
    """
    first: Mapping[str, Any] = next(iter(dataset), {})
    if not marks or not marks.says_something(first, f"data set {shown_name(source)}", training):
        return
    columns = [name for name in marks.columns if name in first]
    for index, row in enumerate(_rows(dataset, columns)):
        try:
            marks.of(row, source)
        except ValueError:  # where it stands is looked up in the file, once
            marks.of(row, place_of_row(source, index))


def _needed(columns: Sequence[str], text_field: str, rejected: bool) -> list[str]:
    """The columns that are read, as the trainer chooses them."""
    if "prompt" in columns or rejected:
        answer = "chosen" if rejected and "completion" not in columns else "completion"
        return ["prompt", answer, *(["rejected"] if rejected else [])]
    return [next((name for name in ("messages", "conversations") if name in columns), text_field)]


def _all_texts(dataset: Any, columns: list[str]) -> bool:
    """Whether columns hold a text in every row by their type, which spares the reading of large sets."""
    if not hasattr(dataset, "select") or {"messages", "conversations"} & set(columns):
        return False
    types = [getattr(dataset.features[name], "dtype", None) for name in columns]
    nulls = sum(dataset.data.column(name).null_count for name in columns)
    return set(types) <= {"string", "large_string"} and not nulls


def _require_ids(dataset: Any, source: str) -> None:
    for index, row in enumerate(_rows(dataset, ["input_ids"])):
        ids = row["input_ids"]
        if not isinstance(ids, Sequence) or isinstance(ids, str) or not all(isinstance(one, int) for one in ids[:1]):
            raise ValueError(
                f"{place_of_row(source, index)}: has {ids!r:.80} as 'input_ids', which must be a list of token ids. Drop the "
                "row, or drop the column so that the texts beside it are trained on."
            )


def _renaming(columns: Sequence[str], text_field: str) -> str:
    if {"instruction", "input", "output"} <= set(columns):
        return "Join instruction and input in a column prompt, and rename output to completion."
    if {"chosen", "rejected"} <= set(columns):
        return "Write what both answer as prompt; contrastive_rejected then reads the rejected answers too."
    question = next((name for name in _QUESTIONS if name in columns), None)
    answer = next((name for name in _ANSWERS if name in columns), None)
    if question and answer:
        return f"Rename {question} to prompt, {answer} to completion."
    return (
        "Name them prompt and completion, or messages, or give the column of plain texts as dataset_text_field (it is "
        f"{text_field!r} now)."
    )


def _completing(columns: Sequence[str]) -> str:
    if {"chosen", "rejected"} <= set(columns):
        return "Set contrastive_rejected to train on chosen beside rejected, or rename chosen to completion."
    if "messages" in columns:
        return "Drop prompt, so that messages are trained on."
    answer = next((name for name in _ANSWERS if name in columns), None)
    return f"Rename {answer} to completion." if answer else "Add the answers as that column."


def _rows(dataset: Any, columns: list[str]) -> Iterator[Mapping[str, Any]]:
    if not hasattr(dataset, "select"):  # streams
        yield from islice(dataset, _STREAMED)
        return
    # In batches, which is several times as fast as row by row; other columns, images say, are not decoded.
    for batch in dataset.with_format(None).select_columns(columns).iter(_BATCH):
        for values in zip(*batch.values(), strict=True):
            yield dict(zip(batch, values, strict=True))


def _problem(row: Mapping[str, Any], text_field: str, conversational: bool) -> str | None:
    for column in row:
        value = row[column]
        if column in _TEMPLATE_COLUMNS:
            problem = _template_problem(column, value)
            if problem:
                return problem
            continue
        if isinstance(value, str) and column not in ("messages", "conversations"):
            if conversational:
                return f"has a text as {column!r} where the first row has messages. Write all rows in one form."
        elif isinstance(value, list) and column != text_field:
            if not conversational:
                return f"has messages as {column!r} where the first row has a text. Write all rows in one form."
            names = ("from", "value") if column == "conversations" else ("role", "content")
            problem = _chat_problem(value, column, *names)
            if problem:
                return problem
        else:
            wanted = {text_field: "a text", "messages": "a list of messages", "conversations": "a list of messages"}
            return (
                f"has {value!r:.80} as {column!r}, which must be {wanted.get(column, 'a text or a list of messages')}, so "
                "nothing could be trained on. Drop the row or fill it."
            )
    return None


def _template_problem(column: str, value: Any) -> str | None:
    if column == "tools" and isinstance(value, str):
        try:
            json.loads(value)
        except json.JSONDecodeError as error:
            return f"has {value!r:.80} as 'tools', which is not JSON ({error.msg}, column {error.colno}). Give a list of tools."
    elif column == "chat_template_kwargs" and not isinstance(value, (Mapping, type(None))):
        return f"has {value!r:.80} as 'chat_template_kwargs', which must be an object, or null."
    return None


def _chat_problem(messages: list[Any], column: str, role: str, content: str) -> str | None:
    if not messages:
        return f"has an empty list as {column!r}, so nothing could be trained on. Drop the row or fill it."
    for number, message in enumerate(messages, start=1):
        where = f"message {number} of {column!r}"
        if not isinstance(message, Mapping):
            return f"{where} is {message!r:.80}, which must be an object with {role} and {content}."
        if not isinstance(message.get(role), str):
            other = {"from": "role", "role": "from"}[role]
            hint = f" Rename the column to {'messages' if other == 'role' else 'conversations'}."
            return f"{where} has no {role}, so nobody would say it.{hint if message.get(other) else ''}"
        # A message of tool calls or of reasoning may have no content, or a template would write the word None.
        if not any(value for name, value in message.items() if name != role) and message.get(content) != "":
            return f"{where} has no {content}, so the word None could be trained on. Drop the row or fill it."
        if not isinstance(message.get(content), (str, list, type(None))):
            return f"{where} has {message[content]!r:.80} as {content}, which must be a text or a list of blocks."
    return None
