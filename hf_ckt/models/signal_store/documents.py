# SPDX-License-Identifier: Apache-2.0
"""The documents of a batch, and the key that each is stored under, whatever layout they are collated in."""

import hashlib
from typing import Any, NamedTuple

import numpy as np

from ..batch import Batch

KEY_BYTES = 16


class StoredDocument(NamedTuple):
    """
    One document of a batch.

    Args:
        ids (`numpy.ndarray` of shape `(L,)`):
            Its tokens.
        kept (`numpy.ndarray` of shape `(L,)`):
            True where the next token counts, `n` times.
        route (`int`, *optional*, defaults to `0`):
            Number of the teacher that its row names.
        context (`StoredDocument`, *optional*):
            The same answer behind the prompt that the teacher alone reads.
    """

    ids: np.ndarray
    kept: np.ndarray
    route: int = 0
    context: "StoredDocument | None" = None

    @property
    def kept_count(self) -> int:
        """Number of its kept positions."""
        return int(self.kept.sum())

    def key(self, teacher: str) -> bytes:
        """Returns the key of what a teacher, given by its fingerprint, said of the document."""
        return document_key(self.ids, self.kept, teacher)


def document_key(ids: Any, kept: Any, teacher: str) -> bytes:
    """
    Returns the 16 bytes under which what a teacher said of a document is stored.

    Args:
        ids (`Sequence[int]` of shape `(L,)`):
            The document's tokens, without padding.
        kept (`Sequence[bool]` of shape `(L,)`):
            True where the next token counts.
        teacher (`str`):
            The teacher's fingerprint, see [`~models.signal_store.facts.teacher_fingerprint`].

    Example:

    >>> document_key([5, 6], [True, False], "a") == document_key([5, 6], [False, True], "a")
    False
    """
    tokens = np.ascontiguousarray(ids, dtype="<i4")
    counts = np.ascontiguousarray(kept, dtype=bool)
    digest = hashlib.blake2b(f"{teacher}\n{len(tokens)}\n".encode(), digest_size=KEY_BYTES)
    digest.update(tokens.tobytes())
    digest.update(counts.tobytes())
    return digest.digest()


def documents_of(batch: Batch) -> list[StoredDocument]:
    """
    Returns the documents of a batch in which something counts, in the order of the kept positions.

    Args:
        batch ([`~models.batch.Batch`]):
            On the CPU: padded, padding-free or packed.

    Raises:
        ValueError: If a position is kept whose token belongs to no document.
    """
    documents = batch.documents
    real = documents.mask.flatten().numpy()
    kept = np.zeros(len(real), dtype=bool)
    kept[batch.kept.numpy()] = True
    if (kept & ~real).any():
        raise ValueError(
            "teacher_cache: a token that counts stands behind one that the attention mask hides, so it belongs to no document "
            "whose states could be looked up. Let the data collator give such tokens the label -100."
        )
    numbers = documents.index.flatten().numpy()[real]
    ids, kept = batch.inputs["input_ids"].flatten().numpy()[real], kept[real]
    routes = np.zeros(len(ids), dtype=int)
    if batch.routes is not None:
        # A row's teacher is said at the tokens that count, each one behind the position that it is kept for.
        routes[:-1] = batch.routes.flatten().numpy()[real][1:]
    starts = np.flatnonzero(np.diff(numbers, prepend=-1))
    found = []
    for start, end in zip(starts, [*starts[1:], len(ids)], strict=True):
        own = kept[start:end]
        if own.any():
            found.append(StoredDocument(ids[start:end], own, int(routes[start:end][own][0])))
    if batch.context is None:
        return found
    return [one._replace(context=read) for one, read in zip(found, documents_of(batch.context), strict=True)]
