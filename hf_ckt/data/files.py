# SPDX-License-Identifier: Apache-2.0
"""Rows from a file or from the Hub."""

import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checks import nearest
from .numbered_rows import BUILDERS, ending_of, numbered_rows

if TYPE_CHECKING:
    from datasets import Dataset

# What pandas calls a column that the first line of a CSV file does not name.
_UNNAMED = "__index_level_0__"
# Builders of what `numbered_rows` reads too.
_BY_LINE = ("json", "csv", "text")
_FORMS = "Give one JSON object a line, or CSV whose first line names the columns, or Parquet,"
# Leading slash, dot or tilde, a drive or backslashes, or more than one slash: no Hub id looks like this.
_PATH = re.compile(r"(?!.*://)([/.~]|[A-Za-z]:|.*\\|[^/]*/[^/]*/)")


def load_rows(source: str, *, split: str | None = None, config: str | None = None) -> Any:
    """
    Loads the rows of one split as a [`~datasets.Dataset`].

    Args:
        source (`str`):
            As for [`load_splits`].
        split (`str`, *optional*):
            Of a Hub data set or saved folder; needed where it has more than one, `"train"` when left out and there.
        config (`str`, *optional*):
            Of a Hub data set.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If the split is, or the file cannot be read or holds no rows.
    """
    found = load_splits(source, config=config)
    split = split or ("train" if "train" in found else next(iter(found)) if len(found) == 1 else "train")
    return pick_split(found, split, source)


def pick_split(found: Mapping[str, Any], split: str, option: str) -> Any:
    """Returns one split, or raises ValueError naming the option, the splits there are, and the nearest of them."""
    if split not in found:
        known = ", ".join(map(repr, found))
        raise ValueError(
            f"{option}: the data set has no split {split!r}.{nearest(split, found)} It has {known}. Name one of them."
        )
    return found[split]


def load_splits(
    source: str, *, config: str | None = None, streaming: bool = False, text_cells: bool = False
) -> Mapping[str, Any]:
    """
    Loads data sets as a mapping from a split's name.

    Args:
        source (`str`):
            A `.jsonl`, `.json`, `.ndjson`, `.csv`, `.tsv`, `.parquet`, `.arrow` or `.txt` file (a text a line), in any
            case, also compressed, whose one split is `"train"`; a folder written by `save_to_disk`, or of data files; or
            a Hub id. What is there as a file is never looked up on the Hub.
        config (`str`, *optional*):
            Of a Hub data set.
        streaming (`bool`, *optional*, defaults to `False`):
            Read rows when they are asked for.
        text_cells (`bool`, *optional*, defaults to `False`):
            Read each cell of a CSV file as a text: else a column of answers such as 42 and 007 is one of numbers.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If it cannot be read, with the line where that is known, or holds no rows.
    """
    from datasets import Dataset, load_dataset, load_from_disk
    from datasets.exceptions import DatasetsError

    path = Path(source).expanduser()
    try:
        if path.is_file() or (not path.is_dir() and ending_of(path) in BUILDERS):
            return {"train": _from_file(path, source, streaming, text_cells)}
        if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
            saved = load_from_disk(str(path))
            splits: Any = {"train": saved} if isinstance(saved, Dataset) else saved
            return {name: one.to_iterable_dataset() for name, one in splits.items()} if streaming else splits
        if not path.exists() and is_path(source):
            raise FileNotFoundError(f"{source}: there is no such file or folder.")
        options = {"streaming": True} if streaming else {}
        return load_dataset(str(path) if path.exists() else source, name=config, **options)
    except DatasetsError as error:
        if isinstance(error, OSError):  # not found; says so itself
            raise
        reason = error.__cause__ or error
        raise ValueError(
            f"{shown_name(source)}: cannot be read as rows ({type(reason).__name__}: {reason}). {_FORMS} in a form that "
            "`datasets.load_dataset` reads."
        ) from error


def data_file_options(path: Path) -> dict[str, Any]:
    """Returns what `datasets.load_dataset` is told of a file: its builder as `path`, and how that one reads it."""
    options: dict[str, Any] = {"path": BUILDERS[ending_of(path)], "data_files": {"train": str(path)}}
    if options["path"] == "csv":
        # An empty cell is one without a value; pandas takes the words NA, None, null and nan for it too.
        options |= {"keep_default_na": False, "na_values": [""]}
    if ending_of(path) == ".tsv":
        options["sep"] = "\t"
    return options


def require_file(path: Path, source: str) -> None:
    """Raises FileNotFoundError unless the file is there, ValueError if it is empty or of an unknown ending."""
    if not path.is_file():
        raise FileNotFoundError(f"{source}: there is no such file.")
    if ending_of(path) not in BUILDERS:
        raise ValueError(
            f"{path.name}: its ending does not say how to read it. Rename it to one of {', '.join(BUILDERS)}."
        )
    if not path.stat().st_size:
        raise _unreadable(path, "it is empty")


def _from_file(path: Path, source: str, streaming: bool, text_cells: bool) -> Any:
    from datasets import Features, Value, load_dataset

    require_file(path, source)
    options = data_file_options(path)
    if options["path"] == "csv":
        # Two columns of one name are an error there, and two names to pandas.
        _, first = next(numbered_rows(path), (None, {}))
        if text_cells and first:
            options["features"] = Features(dict.fromkeys(first, Value("string")))
    # What it logs of a file that it cannot read is said below.
    builder_log = logging.getLogger("datasets.packaged_modules.{0}.{0}".format(BUILDERS[ending_of(path)]))
    was_disabled, builder_log.disabled = builder_log.disabled, True
    try:
        rows = load_dataset(**options, split="train", streaming=streaming)
        if ending_of(path) == ".txt":
            rows = rows.filter(_has_text)
        if next(iter(rows), None) is None:
            raise ValueError("no row")
        if _UNNAMED in (rows.column_names or ()):
            raise ValueError("a line has more cells than the first line has names")
        return rows
    except Exception as error:
        # Each builder fails in its own way, and none of them names the line.
        reason: Any = error.__cause__ or error
        if BUILDERS[ending_of(path)] in _BY_LINE:
            read = [row for _, row in numbered_rows(path)]
            reason = reason if read else "it holds no row"
            if read and not streaming:
                return _in_memory(path, read, reason)
        raise _unreadable(path, reason) from error
    finally:
        builder_log.disabled = was_disabled


def _in_memory(path: Path, rows: list[dict[str, Any]], reason: Exception) -> Any:
    """Rows that a builder cannot read though each of them is right, such as those with Python's NaN."""
    from datasets import Dataset

    names = dict.fromkeys(name for row in rows for name in row)
    try:
        return Dataset.from_dict({name: [row.get(name) for row in rows] for name in names})
    except Exception as error:
        raise _unreadable(path, reason) from error


def _unreadable(path: Path, reason: Any) -> ValueError:
    return ValueError(f"{path.name}: cannot be read as rows ({reason}). {_FORMS} with at least one row.")


def _has_text(row: dict[str, Any]) -> bool:
    return bool(row["text"].strip())


def place_of_row(source: str, index: int) -> str:
    """
    Returns where a row stands, for a message: rows and lines are counted from 1.

    Args:
        source (`str`):
            What [`load_rows`] read.
        index (`int`):
            Of the row, counted from 0.
    """
    path = Path(source).expanduser()
    line = None
    if path.is_file() and BUILDERS.get(ending_of(path)) in _BY_LINE:
        line, _ = next(islice(numbered_rows(path), index, None), (None, {}))
    return f"{shown_name(source)}, row {index + 1}" + ("" if line is None else f" (line {line})")


def is_path(name: str) -> bool:
    """Tells whether a name can only be meant as a path of this machine: no Hub id looks like it."""
    return _PATH.match(name) is not None


def shown_name(source: str) -> str:
    """Returns a source as messages name it: a file or folder by its own name, a Hub id as it is."""
    path = Path(source).expanduser()
    return path.name if path.exists() else source


def packaged_rows(file_name: str, check: Callable[[dict[str, Any]], None]) -> list[dict[str, Any]]:
    """Returns the rows of a JSONL file of this folder; `check` raises ValueError at a wrong one, whose line is then named."""
    text = resources.files(__package__).joinpath(file_name).read_text(encoding="utf-8")
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            check(row)
        except ValueError as error:  # that of json is one
            raise ValueError(f"{file_name}, line {number}: {error}") from error
        rows.append(row)
    return rows


def packaged_dataset(file_name: str, columns: Sequence[str], check: Callable[[dict[str, Any]], None]) -> "Dataset":
    """Returns [`packaged_rows`] as a [`~datasets.Dataset`] of some columns."""
    # Imported here: the command line reads the names of packaged sets without wanting to wait for pyarrow.
    from datasets import Dataset

    rows = packaged_rows(file_name, check)
    return Dataset.from_dict({name: [row[name] for row in rows] for name in columns})
