# SPDX-License-Identifier: Apache-2.0
"""Files that are never half-written, and checkpoints that are whole."""

import json
import os
import re
from collections.abc import Callable
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
