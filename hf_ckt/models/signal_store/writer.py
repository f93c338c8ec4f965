# SPDX-License-Identifier: Apache-2.0
"""Writing a store, shard by shard: what is finished stays, whatever ends the process."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save, save_file
from torch import Tensor

from ...checkpoints import replace_file, replace_json
from ...views import LinearHead
from .documents import KEY_BYTES
from .facts import FACTS, INDEX, differing, digest_of, file_digest

# What a user calls facts whose names are not theirs.
_SHOWN = {"teachers": "set of teachers, or another --top-k", "rows": "data set"}

KEYS, ENDS = "keys", "ends"


def shard_name(number: int) -> str:
    """Returns the file name of a shard."""
    return f"shard-{number:05d}.safetensors"


def plan_shards(counts: Sequence[int], positions: int) -> list[range]:
    """
    Returns which documents each shard holds: as many in order as reach a number of kept positions.

    Args:
        counts (`Sequence[int]`):
            Kept positions by document.
        positions (`int`):
            At which a shard is full.

    Example:

    >>> plan_shards([3, 4, 2, 9], 6)
    [range(0, 2), range(2, 4)]
    """
    shards, start, total = [], 0, 0
    for number, count in enumerate(counts):
        total += count
        if total >= positions:
            shards.append(range(start, number + 1))
            start, total = number + 1, 0
    return [*shards, range(start, len(counts))] if start < len(counts) else shards


def write_head(folder: str | os.PathLike, head: LinearHead) -> dict[str, Any]:
    """
    Writes a head, once for equal ones.

    Returns:
        `dict`: what a teacher's facts say of it: `head` (its file), `logit_scale`, `softcap`, `vocab_size`.
    """
    tensors = {"weight": head.weight.detach().cpu().contiguous()}
    if head.bias is not None:
        tensors["bias"] = head.bias.detach().cpu().contiguous()
    content = save(tensors)
    digest = digest_of(content)
    path = Path(folder, f"head-{digest}.safetensors")
    if not path.exists() or file_digest(path) != digest:
        replace_file(path, lambda aside: Path(aside).write_bytes(content))
    return {
        "head": path.name,
        "logit_scale": head.logit_scale,
        "softcap": head.softcap,
        "vocab_size": head.weight.shape[0],
    }


class StoreWriter:
    """
    Writes a store, or goes on with one that was begun.

    Args:
        folder (`str` or `os.PathLike`):
            Where it lies; made if it is not there.
        facts (`Mapping[str, Any]`):
            Of [`~models.signal_store.facts.store_facts`].
        main (`bool`, *optional*, defaults to `True`):
            Whether this process begins the store; of several, the others must wait until it has, and write other shards.

    Raises:
        ValueError: If the folder holds a store that was begun otherwise, or other files.
    """

    def __init__(self, folder: str | os.PathLike, facts: Mapping[str, Any], *, main: bool = True):
        self.folder = Path(folder)
        self.facts = json.loads(json.dumps(facts))
        if main:
            self._begin()

    def _begin(self) -> None:
        path, index = self.folder / FACTS, self.folder / INDEX
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(
                f"--output: {str(self.folder)!r} is a file, so no cache can be written into it. Name a folder."
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        if path.exists():
            names = differing(_read(path), self.facts)
            damaged = index.exists() and _read(index).get("blake2b", {}).get(FACTS) != file_digest(path)
            if names and not damaged:
                raise ValueError(
                    f"--output: {self.folder.name!r} was begun with another {' and another '.join(_SHOWN.get(name, name) for name in names)}, so one store "
                    "would hold two. Name another folder, or delete this one."
                )
        # Of a kill: ours, and those of safetensors, which writes aside too since 0.8.
        for leftover in (*self.folder.glob(".*.tmp"), *self.folder.glob(".tmp*")):
            leftover.unlink(missing_ok=True)
        replace_json(path, self.facts)
        if index.exists():
            for number in range(self.facts["shards"]):
                self._drop_if_damaged(number)
            index.unlink()  # written anew when all is whole

    def _drop_if_damaged(self, number: int) -> None:
        path = self.folder / shard_name(number)
        about = path.with_suffix(".json")
        if not path.exists() or _read(about).get("blake2b") != file_digest(path):
            about.unlink(missing_ok=True)

    def missing(self) -> list[int]:
        """Returns the numbers of the shards that are not finished."""
        # Beside each shard that is whole, and written after it.
        return [
            number
            for number in range(self.facts["shards"])
            if not (self.folder / shard_name(number)).with_suffix(".json").exists()
        ]

    def write(
        self,
        number: int,
        teacher: str,
        keys: Sequence[bytes],
        counts: Sequence[int],
        fields: Mapping[str, Tensor],
        measured: Mapping[str, float] | None = None,
    ) -> None:
        """
        Writes a shard.

        Args:
            number (`int`):
                Which of them.
            teacher (`str`):
                Name of the teacher whose records it holds.
            keys (`Sequence[bytes]` of length M), counts (`Sequence[int]` of length M):
                Of [`~models.signal_store.documents.document_key`], and each document's kept positions, P in all.
            fields (`Mapping[str, torch.Tensor]` of shape `(P, ...)`):
                The records one behind the other: see [`~models.signal_store.records.encode`].
            measured (`Mapping[str, float]`, *optional*):
                Sums over the shard, which the index adds up.
        """
        total = sum(counts)
        wrong = next((name for name, values in fields.items() if len(values) != total), None)
        if wrong is not None or len(keys) != len(counts):
            raise ValueError(
                f"shard {number}: {len(keys)} documents of {total} positions, and {wrong or 'counts'} is of another length, so "
                "what was said of one document would be read for another."
            )
        tensors = {name: values.cpu().contiguous() for name, values in fields.items()}
        tensors[KEYS] = torch.frombuffer(bytearray(b"".join(keys)), dtype=torch.uint8).view(-1, KEY_BYTES)
        tensors[ENDS] = torch.tensor(counts, dtype=torch.int64).cumsum(0)
        path = self.folder / shard_name(number)
        replace_file(path, lambda aside: save_file(tensors, aside))
        about = {"teacher": teacher, "documents": len(keys), "positions": total, "blake2b": file_digest(path)}
        replace_json(path.with_suffix(".json"), {**about, "measured": dict(measured or {})})

    def finish(self) -> dict[str, Any]:
        """
        Writes the index once every shard is finished, and returns it.

        Raises:
            ValueError: If one is not.
        """
        missing = self.missing()
        if missing:
            raise ValueError(
                f"{self.folder.name!r}: {len(missing)} of {self.facts['shards']} shards are not finished."
            )
        names = [shard_name(number) for number in range(self.facts["shards"])]
        beside = [Path(name).with_suffix(".json").name for name in names]
        abouts = [json.loads((self.folder / name).read_text(encoding="utf-8")) for name in beside]
        measured: dict[str, float] = {}
        for about in abouts:
            for name, value in about["measured"].items():
                measured[name] = measured.get(name, 0) + value
        heads = {facts["head"] for facts in self.facts["teachers"].values() if "head" in facts}
        index = {
            "documents": sum(about["documents"] for about in abouts),
            "positions": sum(about["positions"] for about in abouts),
            "measured": measured,
            # Of the shards themselves, it stands beside each.
            "blake2b": {name: file_digest(self.folder / name) for name in [FACTS, *sorted(heads), *beside]},
        }
        replace_json(self.folder / INDEX, index)
        return index


def _read(path: Path) -> dict[str, Any]:
    """Returns what a file says; nothing where it is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
