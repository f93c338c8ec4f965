# SPDX-License-Identifier: Apache-2.0
"""Pieces of an evaluation, kept as they are made: what a killed run has done, the next one reads."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...checkpoints import replace_json

# Files up to this size are told apart by their content; above, by size and time of writing.
_READ_WHOLE = 64 * 2**20
_SUFFIXES = (".json", ".safetensors", ".jinja", ".model", ".tiktoken", ".py")


class PieceStore:
    """
    A folder of JSON files, each named by all that its value depends on. A changed setting is another name, so nothing
    stale is ever read, and a file appears only when it is whole.

    Args:
        folder (`Path`):
            Made when the first piece is kept.

    Example:

    >>> import tempfile
    >>> store = PieceStore(Path(tempfile.mkdtemp()))
    >>> store.piece({"prompts": ["a"], "seed": 0}, lambda: ["made"])
    ['made']
    >>> store.piece({"seed": 0, "prompts": ["a"]}, lambda: ["made again"])
    ['made']
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def has(self, key: Mapping[str, Any]) -> bool:
        """Tells whether a piece is there."""
        return self._file(key).exists()

    def piece(self, key: Mapping[str, Any], make: Callable[[], Any]) -> Any:
        """Returns a piece as JSON holds it, made and kept first when it is not there."""
        file = self._file(key)
        if not file.exists():
            replace_json(file, {"key": key, "value": make()})
        return json.loads(file.read_text(encoding="utf-8"))["value"]

    def _file(self, key: Mapping[str, Any]) -> Path:
        text = json.dumps(key, sort_keys=True, ensure_ascii=False)
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"


def fingerprint(folder: Path) -> str:
    """
    Returns what tells the weights and settings in a folder from others: a digest of its JSON, model, template and tokenizer
    files, and of code that may come with it.

    Large files go by name, size and time of writing: reading many gigabytes would take longer than it is worth. A boundary
    probe that lies beside them changes nothing of the model, and is left out.
    """
    from ...models.boundary_probe import FACTS, WEIGHTS

    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.name in (WEIGHTS, FACTS):
            continue
        if path.suffix in _SUFFIXES or path.name in ("merges.txt", "vocab.txt"):
            stat = path.stat()
            content = (
                path.read_bytes() if stat.st_size <= _READ_WHOLE else str((stat.st_size, stat.st_mtime_ns)).encode()
            )
            digest.update(f"{path.name}\0".encode() + hashlib.sha256(content).digest())
    return digest.hexdigest()[:32]


def file_digest(path: Path) -> str:
    """Returns a digest of a file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:32]


@contextmanager
def only_writer(folder: Path, lock: str, what: str) -> Iterator[None]:
    """Makes a folder and holds its lock file; raises ValueError when another process does. A kill lets go of it."""
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    held = FileLock(folder / lock)
    try:
        held.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(
            f"--output: another {what} is writing to {folder.name!r}, and the two would mix. Wait for it, or name another "
            "folder."
        ) from error
    try:
        yield
    finally:
        held.release()
