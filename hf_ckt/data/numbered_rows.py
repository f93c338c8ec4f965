# SPDX-License-Identifier: Apache-2.0
"""Rows of a text file one by one, each with the line that it stands on, and every error with its line."""

import bz2
import csv
import gzip
import json
import lzma
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

# Ending of a file -> what `datasets` reads it with.
BUILDERS = {
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "text",
    ".parquet": "parquet",
    ".arrow": "arrow",
}
_OPENERS: dict[str, Callable[..., Any]] = {"": open, ".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".lz4")
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


def ending_of(name: str | Path) -> str:
    """
    Returns the ending that says how a file is read, in lower case and without the one of its compression.

    Example:

    >>> ending_of("rows.JSONL"), ending_of("rows.csv.gz"), ending_of("org/prompts-v1.5")
    ('.jsonl', '.csv', '.5')
    """
    path = Path(str(name).lower())
    return Path(path.stem).suffix if path.suffix in _COMPRESSED else path.suffix


def numbered_rows(path: Path) -> Iterator[tuple[int | None, dict[str, Any]]]:
    """
    Yields the rows of a `.jsonl`, `.json`, `.csv`, `.tsv` or `.txt` file, each with its line, counted from 1.

    A byte order mark and blank lines are passed over. Of a `.json` file that is one list, no lines are known: None. A line
    of a `.txt` file is a row whose column is `text`. The NaN that Python writes where JSON has null is None.

    Args:
        path (`Path`):
            The file; compressed by gzip, bzip2 or xz where its name ends so.

    Raises:
        ValueError: At the first line that is not UTF-8, not JSON, not an object, or has more or fewer cells than the CSV
            file's first line has names; it names file and line.

    Example:

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "rows.csv")
    >>> _ = path.write_text("prompt,kind\\nHello?,plain\\n")
    >>> list(numbered_rows(path))
    [(2, {'prompt': 'Hello?', 'kind': 'plain'})]
    """
    ending, lines = ending_of(path), _lines(path)
    if ending in (".csv", ".tsv"):
        return _cells(path.name, lines, "\t" if ending == ".tsv" else ",")
    if ending == ".txt":
        return ((number, {"text": line.rstrip("\r\n")}) for number, line in lines if line.strip())
    if ending == ".json":
        return _document(path.name, [line for _, line in lines])
    if ending in (".jsonl", ".ndjson"):
        return _objects(path.name, lines)
    raise ValueError(
        f"{path.name}: its ending does not say how to read it line by line. Give .jsonl, .json, .csv, .tsv or .txt."
    )


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    compression = path.suffix.lower() if path.suffix.lower() in _COMPRESSED else ""
    if compression not in _OPENERS:
        raise ValueError(f"{path.name}: cannot be read line by line. Unpack it.")
    try:
        # By bytes, so that the line of a wrong one is known.
        with _OPENERS[compression](path, "rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    kind = "UTF-16" if number == 1 and line.startswith(_UTF16) else "another encoding"
                    raise ValueError(
                        f"{path.name}, line {number}: is not UTF-8 text (byte 0x{line[error.start]:02x}), it seems to be "
                        f"{kind}. Save the file as UTF-8."
                    ) from error
    except (EOFError, gzip.BadGzipFile, lzma.LZMAError) as error:
        raise ValueError(f"{path.name}: cannot be unpacked ({error}), so it may be half a download.") from error


def _objects(name: str, lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int | None, dict[str, Any]]]:
    for number, line in lines:
        if not line.strip():
            continue
        try:
            row = json.loads(line, parse_constant=_nothing)
        except json.JSONDecodeError as error:
            comma = " Remove the comma behind the object." if line.rstrip().endswith(",") else ""
            raise ValueError(
                f"{name}, line {number}: is not JSON ({error.msg}, column {error.colno}).{comma}"
            ) from error
        yield number, _object(f"{name}, line {number}", row)


def _document(name: str, lines: list[str]) -> Iterator[tuple[int | None, dict[str, Any]]]:
    try:
        document = json.loads("".join(lines), parse_constant=_nothing)
    except json.JSONDecodeError as error:
        first = next((line for line in lines if line.strip()), "").strip()
        if first.startswith("{") and first.endswith(("}", "},")):  # an object a line, under the ending of a document
            yield from _objects(name, enumerate(lines, start=1))
            return
        raise ValueError(f"{name}, line {error.lineno}: is not JSON ({error.msg}, column {error.colno}).") from error
    for number, row in enumerate(document if isinstance(document, list) else [document], start=1):
        yield None, _object(f"{name}, row {number}", row)


def _nothing(constant: str) -> None:
    return None


def _object(where: str, row: Any) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise ValueError(f"{where}: must be an object with the columns, got {row!r:.80}.")
    return row


def _cells(name: str, lines: Iterable[tuple[int, str]], delimiter: str) -> Iterator[tuple[int | None, dict[str, Any]]]:
    # The standard library's own limit is 131,072 letters, which an answer may exceed.
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    # Strict: a quotation mark that is never closed would swallow all rows behind it.
    reader = csv.reader((line for _, line in lines), delimiter=delimiter, strict=True)
    names: list[str] | None = None
    begin = 1
    try:
        for cells in reader:
            if names is None and cells:
                names = cells
                mark = next((one for one in ";\t|" if one in cells[0]), None)
                if len(cells) == 1 and mark and mark != delimiter:
                    raise ValueError(
                        f"{name}: its first line names one column, {cells[0]!r}, so its cells seem to be separated by {mark!r}. "
                        "Separate them by commas, or by tabs in a file that ends in .tsv."
                    )
                twice = next((cell for cell in names if names.count(cell) > 1), None)
                if twice is not None:
                    raise ValueError(f"{name}: two of its columns are called {twice!r}. Rename or drop one of them.")
            elif names is not None and cells:
                if len(cells) != len(names):
                    raise ValueError(
                        f"{name}, line {begin}: has {len(cells)} cells where the first line names {len(names)} columns. "
                        "Put cells that hold a comma or line break into quotation marks."
                    )
                yield begin, dict(zip(names, cells, strict=True))
            begin = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"{name}, line {begin}: is not CSV ({error}).") from error
