# SPDX-License-Identifier: Apache-2.0
"""Files that are never half-written, blocks that are generated into them, and checkpoints that are whole."""

import json
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any


def replace_file(path: str | os.PathLike, write: Callable[[str], Any]) -> None:
    """
    Writes a file aside and renames it into place, so that a kill leaves the old file or the new one.

    Args:
        path (`str` or `os.PathLike`):
            File to write; missing folders are made.
        write (`Callable`):
            Called with the name to write to.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(str(aside))
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def replace_json(path: str | os.PathLike, content: Any, *, indent: int = 1) -> None:
    """
    Writes a JSON file as [`replace_file`] does, so that a results file is never half of one.

    Args:
        path (`str` or `os.PathLike`):
            File to write; missing folders are made.
        content (`Any`):
            What JSON can hold.
        indent (`int`, *optional*, defaults to `1`):
            Spaces a level.
    """
    text = json.dumps(content, indent=indent, ensure_ascii=False) + "\n"
    replace_file(path, lambda aside: Path(aside).write_text(text, encoding="utf-8"))


def replace_json_lines(path: str | os.PathLike, rows: Iterable[Any]) -> int:
    """
    Writes JSON rows, a line each, as [`replace_file`] does, and returns how many there are.

    Args:
        path (`str` or `os.PathLike`):
            File to write; missing folders are made.
        rows (`Iterable`):
            What JSON can hold.
    """
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    replace_file(path, lambda aside: Path(aside).write_text("".join(lines), encoding="utf-8"))
    return len(lines)


def replace_block(path: str | os.PathLike, name: str, block: str) -> None:
    """
    Writes what stands between a text file's lines `<!-- name -->` and `<!-- /name -->`.

    Args:
        path (`str` or `os.PathLike`):
            An existing file.
        name (`str`):
            What the two markers say.
        block (`str`):
            The text between them, without a line break at its end.

    Raises:
        ValueError: If the file has not exactly one such pair: the block would be nowhere, or twice.
    """
    text = Path(path).read_text(encoding="utf-8")
    marked = rf"(<!-- {re.escape(name)} -->\n).*?(<!-- /{re.escape(name)} -->)"
    text, count = re.subn(marked, lambda match: f"{match[1]}{block}\n{match[2]}", text, flags=re.DOTALL)
    if count != 1:
        raise ValueError(
            f"{Path(path).name}: has {count} pairs of markers <!-- {name} --> and <!-- /{name} -->, so there is not one "
            "place to write to. Put each marker once, on a line of its own."
        )
    replace_file(path, lambda aside: Path(aside).write_text(text, encoding="utf-8"))


def last_complete_checkpoint(output_dir: str | os.PathLike, *, required: bool = True) -> str | None:
    """
    Returns the newest checkpoint that was written to its end.

    Trainer writes `trainer_state.json` last; a folder without a readable one was cut off by a kill and is passed over.

    Args:
        output_dir (`str` or `os.PathLike`):
            Where the run saves.
        required (`bool`, *optional*, defaults to `True`):
            Whether to raise when there is none; otherwise None is returned.

    Raises:
        ValueError: If there is none and one is required.
    """
    folder = Path(output_dir)
    found = [path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    for path in sorted(found, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True):
        try:
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        return str(path)
    if not required:
        return None
    raise ValueError(
        f"resume_from_checkpoint=True: {folder.name!r} holds no complete checkpoint ({len(found)} incomplete), so there "
        "is nothing to resume. Pass resume_from_checkpoint=None to start anew."
    )
