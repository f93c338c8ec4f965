# SPDX-License-Identifier: Apache-2.0
"""What serving engines write of log-probabilities, in any of their forms, as one."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .numbered_rows import ending_of, numbered_rows

Name = int | str | bytes
"""A token as it is named: by its id, its text, or the bytes of its text."""


class Named(NamedTuple):
    """
    What is said of one token of a text.

    Args:
        chosen (`Name`, *optional*):
            The token that stands there; None: one of `top`.
        log_prob (`float`, *optional*):
            Of it, where it is said apart from `top`.
        top (`list[tuple[Name, float]]`):
            Probable tokens, with the log-probability of each.
        rank (`int`, *optional*):
            Of the token that stands there, where `top` has none but it.
    """

    chosen: Name | None
    log_prob: float | None
    top: list[tuple[Name, float]]
    rank: int | None = None


class Served(NamedTuple):
    """
    What was served of one row.

    Args:
        row (`int`):
            Its number.
        whole (`bool`):
            Whether prompt and answer are there, token by token, or the answer alone.
        tokens (`list[Named | None]`):
            What is said of each; None where nothing is, as of the first.
        model (`str`, *optional*):
            Whose they are.
    """

    row: int
    whole: bool
    tokens: list[Named | None]
    model: str | None = None


def served_rows(paths: Sequence[str | Path]) -> Iterator[Served]:
    """
    Yields what files hold, line by line.

    A line is a response of an OpenAI-style server (`choices[0].logprobs`, of a chat or of a completion with `echo`), has
    vLLM's `prompt_logprobs`, or the columns `input_ids`, `top_ids`, `top_log_probs`, in which the lists at a token are of
    what follows it. The number of the row is its `row`, else its place among all lines, counted from 0.

    Args:
        paths (`Sequence[str | Path]`):
            JSON lines or Parquet.

    Raises:
        ValueError: At the first line that is not JSON, holds no log-probabilities, or has others in its place; it is named.

    Example:

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "served.jsonl")
    >>> _ = path.write_text('{"input_ids": [5, 6], "top_ids": [[6, 7], []], "top_log_probs": [[-0.1, -3.0], []]}')
    >>> next(served_rows([path])).tokens[1].top
    [(6, -0.1), (7, -3.0)]
    """
    place = 0
    for path in map(Path, paths):
        for number, line in _lines(path):
            where = f"{path.name}, {'row' if ending_of(path) == '.parquet' else 'line'} {number}"
            row = line.get("row", place)
            if not isinstance(row, int) or row < 0:
                raise ValueError(f"{where}: row is {row!r}, and must be the number of a row, counted from 0.")
            try:
                whole, tokens = _read(line)
            except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
                reason = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
                raise ValueError(
                    f"{where}: holds no log-probabilities that could be read ({reason}). Give responses of an OpenAI-style server "
                    "as they came, asked with logprobs, vLLM's prompt_logprobs, or the columns input_ids, top_ids, top_log_probs."
                ) from error
            model = line.get("model")
            yield Served(row, whole, tokens, model if isinstance(model, str) else None)
            place += 1


def _lines(path: Path) -> Iterator[tuple[Any, dict[str, Any]]]:
    if ending_of(path) != ".parquet":
        yield from numbered_rows(path)
        return
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    number = 0
    try:
        for batch in ParquetFile(path).iter_batches(batch_size=64):
            for line in batch.to_pylist():
                yield number, line
                number += 1
    except (ArrowException, OSError) as error:
        raise ValueError(f"{path.name}: cannot be read as Parquet ({error}). Write it again.") from error


def _read(line: Mapping[str, Any]) -> tuple[bool, list[Named | None]]:
    if "top_ids" in line:
        return True, _columns(line)
    choice = line["choices"][0] if line.get("choices") else {}
    prompt = line.get("prompt_logprobs") or choice.get("prompt_logprobs")
    if prompt:
        return True, [None if one is None else _of_ids(one) for one in prompt]
    found = choice.get("logprobs")
    if not found:
        raise ValueError("neither choices[0].logprobs nor prompt_logprobs is there")
    if found.get("content") is not None:
        return False, [_of_chat(one) for one in found["content"]]
    return True, _of_completion(found)


def _columns(line: Mapping[str, Any]) -> list[Named | None]:
    ids, tops, values = line["input_ids"], line["top_ids"], line["top_log_probs"]
    if not len(ids) - 1 <= len(tops) <= len(ids) or len(values) != len(tops):
        raise ValueError(f"{len(ids)} tokens, and lists of {len(tops)} and {len(values)} of them")
    found: list[Named | None] = [None]
    for token, top, log_probs in zip(ids[1:], tops, values, strict=False):
        named: list[tuple[Name, float]] = [(int(a), _number(b)) for a, b in zip(top, log_probs, strict=True)]
        found.append(Named(int(token), None, named))
    return found


def _of_ids(one: Mapping[str, Any]) -> Named:
    top: list[tuple[Name, float]] = [(int(token), _number(about["logprob"])) for token, about in one.items()]
    rank = next(iter(one.values())).get("rank") if len(one) == 1 else None
    return Named(None, None, top, rank)


def _of_chat(one: Mapping[str, Any]) -> Named:
    top = [(_name(other), _number(other["logprob"])) for other in one.get("top_logprobs") or []]
    return Named(_name(one), _number(one["logprob"]), top)


def _name(one: Mapping[str, Any]) -> Name:
    text = _text(one["token"])
    # Of special tokens, some servers give no bytes; an id says more than they do.
    return bytes(one["bytes"]) if one.get("bytes") and not isinstance(text, int) else text


def _of_completion(found: Mapping[str, Any]) -> list[Named | None]:
    tokens, values = found["tokens"], found["token_logprobs"]
    tops = found.get("top_logprobs") or [None] * len(tokens)
    tokens_said: list[Named | None] = []
    for token, value, top in zip(tokens, values, tops, strict=True):
        named = [(_text(other), _number(log_prob)) for other, log_prob in (top or {}).items()]
        tokens_said.append(None if value is None else Named(_text(token), _number(value), named))
    return tokens_said


def _text(token: str) -> Name:
    """A token's text; its id or bytes where the server writes these in its place."""
    if match := re.fullmatch(r"token_id:(\d+)", token):
        return int(match[1])
    if re.fullmatch(r"bytes:(\\x[0-9a-fA-F]{2})+", token):
        return bytes.fromhex(token.removeprefix("bytes:").replace("\\x", ""))
    return token


def _number(value: Any) -> float:
    number = float(value)
    if not number <= 1e-3:
        raise ValueError(f"{number} is the logarithm of no probability")
    return number
