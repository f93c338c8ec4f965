# SPDX-License-Identifier: Apache-2.0
"""Reading a store: by document, out of files that stay on disk."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ...views import LinearHead
from ..batch import Batch
from .documents import StoredDocument, documents_of
from .facts import FACTS, FORMAT, INDEX, file_digest
from .writer import ENDS, KEYS, shard_name


class StoreReader:
    """
    A finished store.

    Shards are mapped into memory, so that what is read of them is what is looked up. It can be handed to the workers of a
    data loader.

    Args:
        folder (`str` or `os.PathLike`):
            Where it lies.
        verify (`bool`, *optional*, defaults to `True`):
            Whether all files are read once and compared with their checksums.

    Raises:
        ValueError: If it is no store, is not finished or of another format, or a file is damaged.
    """

    def __init__(self, folder: str | os.PathLike, *, verify: bool = True):
        self.folder = Path(folder)
        if not (self.folder / FACTS).is_file():
            raise ValueError(
                f"teacher_cache: {str(folder)!r} is no folder that `hf-ckt cache-teacher` wrote (it has no {FACTS}), so there is "
                "nothing to learn from. Name the folder that was its --output."
            )
        if not (self.folder / INDEX).is_file():
            raise ValueError(
                f"teacher_cache: {self.folder.name!r} is not finished (it has no {INDEX}), so rows would be missing. Run the "
                "same `hf-ckt cache-teacher` command again, which goes on where it stopped."
            )
        self.facts: dict[str, Any] = self._json(FACTS)
        self.index: dict[str, Any] = self._json(INDEX)
        if self.facts.get("format") != FORMAT:
            raise ValueError(
                f"teacher_cache: {self.folder.name!r} has the format {self.facts.get('format')!r}, and this version reads "
                f"{FORMAT}, so its records would be misread. Write it anew with `hf-ckt cache-teacher`."
            )
        self.teachers: dict[str, dict[str, Any]] = self.facts["teachers"]
        """What each teacher is known by, by name; one alone has the name ''."""
        for name, digest in self.index["blake2b"].items() if verify else ():
            self._require(name, digest)
        self._names = list(self.teachers)
        self._open: dict[int, dict[str, Tensor]] = {}
        self._places: dict[bytes, tuple[int, int, int]] = {}
        for number in range(self.facts["shards"]):
            if verify:
                name = shard_name(number)
                self._require(name, self._json(Path(name).with_suffix(".json").name)["blake2b"])
            start = 0
            shard = self._shard(number)
            for key, end in zip(shard[KEYS].numpy(), shard[ENDS].tolist(), strict=True):
                self._places[key.tobytes()] = number, start, end
                start = end

    def __getstate__(self) -> dict[str, Any]:
        # A worker that is not forked maps the files itself.
        return {**vars(self), "_open": {}}

    @property
    def lossy(self) -> bool:
        """Whether its records are of the most probable tokens alone."""
        return self.facts["kind"] == "top_k"

    def missing(self, documents: Iterable[StoredDocument]) -> list[StoredDocument]:
        """Returns those of some documents that are not in the store."""
        return [one for one in documents if self._key(one) not in self._places]

    def look_up(self, batch: Batch, *, strict: bool = True) -> dict[str, Tensor]:
        """
        Returns what is stored for the kept positions of a batch.

        Args:
            batch ([`~models.batch.Batch`]):
                On the CPU.
            strict (`bool`, *optional*, defaults to `True`):
                Whether a document that is not there is an error. Else what is said of it is NaN, for one that another
                teacher is asked for.

        Returns:
            `dict[str, torch.Tensor]`: the fields of the records, `(N, ...)` each. Where teachers have states of different
            width, narrower ones are filled up with zeros.

        Raises:
            ValueError: If a document is not in the store.
        """
        documents = documents_of(batch)
        places = [self._places.get(self._key(one)) for one in documents]
        if strict and None in places:
            raise ValueError(
                f"teacher_cache: {self.folder.name!r} holds nothing on {places.count(None)} of {len(places)} documents of a "
                f"batch, of which the first begins with the ids {documents[places.index(None)].ids[:8].tolist()}. Run "
                "`hf-ckt cache-teacher` over the data as this run reads it."
            )
        found: dict[str, list[Tensor]] = {name: [] for name in self._fields}
        for document, place in zip(documents, places, strict=True):
            for name, (shape, dtype) in self._fields.items():
                if place is None:
                    values = torch.full(
                        (document.kept_count, *shape), torch.nan if dtype.is_floating_point else 0, dtype=dtype
                    )
                else:
                    number, start, end = place
                    values = self._shard(number)[name][start:end]
                    if values.shape[1:] != shape:
                        values = torch.nn.functional.pad(values, (0, shape[0] - values.shape[1]))
                found[name].append(values)
        return {
            name: torch.cat(pieces)
            if pieces
            else torch.empty((0, *self._fields[name][0]), dtype=self._fields[name][1])
            for name, pieces in found.items()
        }

    def head(self, teacher: str) -> LinearHead:
        """Returns a teacher's head, on the CPU."""
        facts = self.teachers[teacher]
        with safe_open(self.folder / facts["head"], "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        return LinearHead(tensors["weight"], tensors.get("bias"), facts["logit_scale"], facts["softcap"])

    @property
    def _fields(self) -> dict[str, tuple[torch.Size, torch.dtype]]:
        """Shape and dtype of one position's record, by field, the widest there are."""
        if "_known_fields" not in vars(self):
            fields: dict[str, tuple[torch.Size, torch.dtype]] = {}
            for number in range(self.facts["shards"]):
                for name, values in self._shard(number).items():
                    if name not in (KEYS, ENDS):
                        widest = max(fields.get(name, (values.shape[1:],))[0], values.shape[1:])
                        fields[name] = torch.Size(widest), values.dtype
            self._known_fields = fields
        return self._known_fields

    def _key(self, document: StoredDocument) -> bytes:
        name = self._names[document.route] if len(self._names) > 1 else self._names[0]
        return document.key(self.teachers[name]["fingerprint"])

    def _shard(self, number: int) -> dict[str, Tensor]:
        if number not in self._open:
            try:
                with safe_open(self.folder / shard_name(number), "pt") as file:
                    # Mapped, not read.
                    self._open[number] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            except (OSError, SafetensorError) as error:
                raise self._damaged(shard_name(number)) from error
        return self._open[number]

    def _json(self, name: str) -> Any:
        try:
            return json.loads((self.folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise self._damaged(name) from error

    def _require(self, name: str, digest: str) -> None:
        if not (self.folder / name).is_file() or file_digest(self.folder / name) != digest:
            raise self._damaged(name)

    def _damaged(self, name: str) -> ValueError:
        return ValueError(
            f"teacher_cache: {name} in {self.folder.name!r} is missing or not what was written (its checksum differs), so the "
            "student would learn from noise. Run the same `hf-ckt cache-teacher` command again, which writes damaged shards anew."
        )
