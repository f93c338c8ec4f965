# SPDX-License-Identifier: Apache-2.0
"""A store of what a served teacher says of a run's rows."""

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from ..data.served_log_probs import Named, Served
from ..models.signal_store.documents import StoredDocument
from ..models.signal_store.facts import digest_of, store_facts, teacher_fingerprint, tokenizer_fingerprint
from ..models.signal_store.records import IDS, LOG_PROBS
from ..models.signal_store.writer import StoreWriter, plan_shards
from ..models.token_map import embedding_rows
from ..models.token_names import TokenNames
from .run_documents import documents_in, loaded_datasets, require_found_by_tokens
from .stored_rows import run_template
from .truncation_loss import truncation_loss

# What servers write in place of a logarithm that is too small to be told.
_UNTOLD = -9000.0
_SHARD_BYTES = 256_000_000


class Imported(NamedTuple):
    """
    What was imported.

    Args:
        rows (`int`), positions (`int`):
            How many, equal rows once.
        silent (`int`):
            Positions at which nothing is named.
        tail (`float`):
            Mean probability of the tokens that are not named, of the other positions.
        width (`int`):
            Most tokens that are named at a position.
        unknown (`int`):
            Names that are no token's, or several tokens': they count among those that are not named.
    """

    rows: int
    positions: int
    silent: int
    tail: float
    width: int
    unknown: int
    lossy: str | None = None
    """What the named tokens lose against the whole distributions, where those were compared."""


class _Record(NamedTuple):
    ids: list[int]
    log_probs: list[float]


def rows_of(trainer: Any) -> dict[str, list[StoredDocument | None]]:
    """
    Returns the rows of a trainer's datasets as it trains on them, by the dataset's name; None: nothing of it counts.

    Args:
        trainer ([`~training.trainer.ContrastiveRobustTrainer`]):
            Neither packed nor of a teacher: a row is a document.

    Raises:
        ValueError: If the data streams or has images.
    """
    require_found_by_tokens(trainer, "import-logprobs", "its rows have no numbers")
    return {name: list(_rows_in(trainer, name, one)) for name, one in loaded_datasets(trainer).items()}


def _rows_in(trainer: Any, name: str, dataset: Dataset) -> Iterator[StoredDocument | None]:
    for some in documents_in(trainer, name, dataset, trainer.data_collator, rows=1):
        yield some.documents[0] if some.documents else None


def import_log_probs(
    trainer: Any,
    folder: str | os.PathLike,
    served: Mapping[str, Iterable[Served]],
    *,
    name: str | None = None,
    exact: Any = None,
    compared_rows: int = 256,
) -> Imported:
    """
    Writes a store of what was served of a run's rows.

    Args:
        trainer ([`~training.trainer.ContrastiveRobustTrainer`]):
            See [`rows_of`].
        folder (`str` or `os.PathLike`):
            Where to write.
        served (`Mapping[str, Iterable[Served]]`):
            By dataset.
        name (`str`, *optional*):
            What the teacher is called. None: as the responses call it.
        exact (`PreTrainedModel`, *optional*):
            The same teacher, loaded: what the named tokens lose against its whole distributions is measured, and stands in the
            store, in the manifest of a checkpoint, and in its index.
        compared_rows (`int`, *optional*, defaults to `256`):
            At most so many rows are compared, evenly spaced.

    Raises:
        ValueError: If a row is missing or there twice, or its tokens are not the run's.
    """
    names = TokenNames(trainer._tokenizer)
    documents: list[StoredDocument] = []
    records: list[list[_Record]] = []
    models: list[str] = []
    seen: set[bytes] = set()
    unknown = 0
    for dataset, rows in rows_of(trainer).items():
        found: dict[int, list[_Record]] = {}
        for one in served.get(dataset, ()):
            where = f"import-logprobs: {'row' if dataset == 'train_dataset' else dataset + ', row'} {one.row}"
            if one.row >= len(rows):
                raise ValueError(
                    f"{where}: the run has {len(rows)} rows, so it is of other data. Ask anew with this run file."
                )
            if one.row in found:
                raise ValueError(f"{where}: is there twice, so it is not known which one holds. Drop one of them.")
            document = rows[one.row]
            found[one.row] = []
            if one.model is not None and one.model not in models:
                models.append(one.model)
            if document is not None:
                matched, missed = _matched(one, document, names, where)
                found[one.row], unknown = matched, unknown + missed
        missing = [number for number, one in enumerate(rows) if one is not None and number not in found]
        if missing:
            given = "FILE" if dataset == "train_dataset" else "--eval-files"
            raise ValueError(
                f"import-logprobs: {given} holds nothing on {len(missing):,} of the {len(rows):,} rows of {dataset} (first: row "
                f"{missing[0]}), so nobody would teach them. Ask the server for them too."
            )
        for number, document in enumerate(rows):
            key = None if document is None else document.key("")
            if document is not None and key is not None and key not in seen:
                seen.add(key)
                documents.append(document)
                records.append(found[number])
    if name is None:
        if len(models) > 1:
            raise ValueError(
                f"import-logprobs: the responses are of several models ({', '.join(models)}), and one store has one teacher. "
                "Import those of one, or say with --name what they are called together."
            )
        name = models[0] if models else "served"
    width = max((len(one.ids) for said in records for one in said), default=0)
    if width == 0:
        raise ValueError("import-logprobs: no row has a token that counts, so there is nothing to teach.")
    measured: dict[str, float] = {}
    if exact is not None:
        some = range(0, len(documents), -(-len(documents) // compared_rows))
        fields = {i: _fields(records[i], width) for i in some}
        pieces = ((documents[i], one[IDS], one[LOG_PROBS]) for i, one in fields.items())
        measured = truncation_loss(exact, pieces)
    lossy = f"lossy: KL {measured['kl'] / measured['compared']:.3g} nats per token" if measured else None
    _write(trainer, folder, name, documents, records, width, lossy, measured)
    named = [sum(np.exp(one.log_probs)) for said in records for one in said if one.ids]
    count = sum(map(len, records))
    tail = float(np.mean([max(0.0, 1 - one) for one in named]))
    return Imported(len(documents), count, count - len(named), tail, width, unknown, lossy)


def _matched(served: Served, document: StoredDocument, names: TokenNames, where: str) -> tuple[list[_Record], int]:
    """What is said at the kept positions of a document, and the number of names that are not known; raises at another token."""
    ids, kept = document.ids.tolist(), np.flatnonzero(document.kept)
    # Of each token of the document, which of the served ones it is.
    places = {token: token for token in range(1, len(ids))} if served.whole else {}
    places |= {} if served.whole else {int(position) + 1: place for place, position in enumerate(kept)}
    said = served.tokens
    if not served.whole and len(said) > len(kept):
        raise ValueError(
            f"{where}: the response has {len(said)} tokens and the row's answer {len(kept)}, so it is another answer. Train on the "
            "answers that the server gave, or ask for the log-probabilities of the row's own (completions with echo)."
        )
    absent = [ids[token] for token, place in places.items() if place >= len(said)]
    if names.tokenizer.decode(absent, skip_special_tokens=True).strip():
        raise ValueError(
            f"{where}, position {len(ids) - len(absent)}: what was served ends, and the row goes on with "
            f"{names.show(absent[0])}, so nobody would teach the rest. Ask for the whole row."
        )
    counts = set((kept + 1).tolist())
    # Some servers drop the space before a word: "the" may then be a word or the middle of one.
    pairs = ((said[place], ids[token]) for token, place in places.items() if place < len(said))
    spelled = all(one is None or names.is_spelled(one.chosen, index) for one, index in pairs)
    found: list[_Record] = []
    read: list[Named] = []
    unknown = 0
    for token, place in places.items():
        one = said[place] if place < len(said) else None
        at = f"{where}, position {token}"
        if one is None:
            if token in counts and place < len(said):
                raise ValueError(
                    f"{at}: nothing is said of {names.show(ids[token])}. Ask with logprobs for every token."
                )
            if token in counts:
                found.append(_Record([], []))
            continue
        _require_same(one, ids[token], names, at)
        if token in counts:
            read.append(one)
            record, missed = _record(one, ids[token], names, at, spelled)
            found.append(record)
            unknown += missed
    alone = all(not one.top for one in read) or (
        all(len(one.top) == 1 for one in read) and any((one.rank or 1) > 1 for one in read)
    )
    if read and alone:
        raise ValueError(
            f"{where}: holds the log-probabilities of its own tokens alone and names no other (logprobs=0), so there is no "
            "distribution to learn. Ask with logprobs=K, K at least 1, or top_logprobs=K of a chat."
        )
    return found, unknown


def _require_same(one: Named, token: int, names: TokenNames, at: str) -> None:
    other = one.chosen
    if other is None and one.top:
        same, other = any(name == token for name, _ in one.top), one.top[0][0]
    else:
        same = other is not None and names.may_be(other, token)
    if not same:
        raise ValueError(
            f"{at}: the served model read {names.show(other)} and the run's row has {names.show(token)}, so what it says is of "
            "another text or tokenizer. Serve a model with the run's tokenizer, and give it the rows' tokens as ids."
        )


def _record(one: Named, token: int, names: TokenNames, at: str, spelled: bool) -> tuple[_Record, int]:
    """The tokens that are named, the most probable first."""
    found: dict[int, float] = {}
    own = one.log_prob
    if own is not None and own > _UNTOLD:
        found[token] = own
    unknown = 0
    for name, log_prob in one.top:
        if log_prob <= _UNTOLD:
            continue
        index = token if log_prob == own and names.may_be(name, token) else names.id_of(name, spelled=spelled)
        if index is None:
            unknown += 1
        elif index not in found:
            found[index] = log_prob
    mass = sum(np.exp(list(found.values())))
    if mass > 1.01:
        raise ValueError(
            f"{at}: the probabilities of the named tokens add up to {mass:.3f}, so they are of no one distribution. Ask for "
            "log-probabilities at temperature 1, before any filter."
        )
    order = sorted(found, key=lambda index: -found[index])
    return _Record(order, [found[index] for index in order]), unknown


def _write(
    trainer: Any,
    folder: str | os.PathLike,
    name: str,
    documents: list[StoredDocument],
    records: list[list[_Record]],
    width: int,
    lossy: str | None,
    measured: dict[str, float],
) -> None:
    content = digest_of(repr(records).encode())
    # What was served under one name twice need not be equal.
    teacher = {"kind": "top_k", "name": name, "served": content}
    fingerprint = teacher_fingerprint(teacher)
    teacher |= {} if lossy is None else {"lossy": lossy}
    keys = [one.key(fingerprint) for one in documents]
    counts = [one.kept_count for one in documents]
    shards = plan_shards(counts, max(1, _SHARD_BYTES // (8 * width)))
    size = embedding_rows(trainer._causal_lm)
    facts = store_facts(
        kind="top_k",
        dtype="float32",
        teachers={"": {**teacher, "fingerprint": fingerprint, "vocab_size": size, "k": width}},
        tokenizer=tokenizer_fingerprint(trainer._tokenizer),
        chat_template=run_template(trainer),
        max_length=trainer.args.max_length,
        shards=len(shards),
        rows=digest_of(b"".join(keys)),
    )
    writer = StoreWriter(folder, facts)
    for number in writer.missing():
        own = shards[number]
        fields = _fields([one for index in own for one in records[index]], width)
        # What was compared is said once.
        sums = {} if number else measured
        writer.write(number, "", [keys[i] for i in own], [counts[i] for i in own], fields, sums)
    writer.finish()


def _fields(records: list[_Record], width: int) -> dict[str, Tensor]:
    ids = torch.full((len(records), width), -1, dtype=torch.int32)
    log_probs = torch.zeros(len(records), width)
    for row, one in enumerate(records):
        ids[row, : len(one.ids)] = torch.tensor(one.ids, dtype=torch.int32)
        log_probs[row, : len(one.ids)] = torch.tensor(one.log_probs)
    return {IDS: ids, LOG_PROBS: log_probs}
