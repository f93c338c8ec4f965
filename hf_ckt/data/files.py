# SPDX-License-Identifier: Apache-2.0
"""Rows from a file or from the Hub."""

import json
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

# Ending of a file -> what `datasets` reads it with.
BUILDERS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}


def load_rows(source: str, *, split: str | None = None, config: str | None = None) -> Any:
    """
    Loads rows as a [`~datasets.Dataset`].

    Args:
        source (`str`):
            A `.jsonl`, `.json`, `.csv` or `.parquet` file, a folder written by `save_to_disk`, or a Hub id.
        split (`str`, *optional*):
            Of a Hub data set or saved folder; needed where it has more than one, `"train"` when left out and there.
        config (`str`, *optional*):
            Of a Hub data set.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If the split is, or the file holds no rows.
    """
    from datasets.exceptions import DatasetsError

    try:
        return _load(source, split, config)
    except (DatasetsError, StopIteration) as error:  # StopIteration: an empty JSON file
        if isinstance(error, OSError):  # not found; says so itself
            raise
        raise ValueError(
            f"{Path(source).name}: cannot be read as rows ({error.__cause__ or 'it is empty'}). Give one JSON object a line, "
            "or CSV whose first line names the columns, or Parquet."
        ) from error


def _load(source: str, split: str | None, config: str | None) -> Any:
    from datasets import Dataset, load_dataset, load_from_disk

    path = Path(source)
    if path.suffix in BUILDERS and not path.is_dir():
        if not path.is_file():
            raise FileNotFoundError(f"{source}: there is no such file.")
        return load_dataset(BUILDERS[path.suffix], data_files=str(path), split="train")
    if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
        found: Any = load_from_disk(source)
    else:
        found = load_dataset(source, name=config)
    if isinstance(found, Dataset):
        return found
    split = split or ("train" if "train" in found else next(iter(found)) if len(found) == 1 else "train")
    if split not in found:
        raise ValueError(f"{source}: has no split {split!r}; it has {', '.join(found)}. Name one of them.")
    return found[split]


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
