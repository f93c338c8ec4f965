# SPDX-License-Identifier: Apache-2.0
"""What the Hub's cache on this machine knows of a repository, without network."""

import re
from pathlib import Path

_SNAPSHOT = re.compile(r"[/\\]snapshots[/\\]([0-9a-f]{40})(?:[/\\]|$)")


def find_file(name: str, file: str, revision: str | None = None) -> Path | None:
    """
    Returns a file of a model, or None where it is not on this machine.

    Args:
        name (`str`):
            A folder, or a Hub id, of which the cache is looked through.
        file (`str`):
            Its name within.
        revision (`str`, *optional*):
            Of a Hub id; None: the main branch, as it was last seen.
    """
    from huggingface_hub import try_to_load_from_cache

    if Path(name).is_dir():
        path = Path(name, file)
        return path if path.is_file() else None
    try:
        found = try_to_load_from_cache(name, file, revision=revision)
    except ValueError:  # no Hub id
        return None
    return Path(found) if isinstance(found, str) else None


def find_commit(name: str, revision: str | None = None) -> str | None:
    """Returns the commit that a model or adapter was loaded from; None of a folder that is not of the cache. As [`find_file`]."""
    for file in ("adapter_config.json", "config.json"):
        path = find_file(name, file, revision)
        commit = None if path is None else _SNAPSHOT.search(str(path.absolute()))
        if commit is not None:
            return commit[1]
    return None
