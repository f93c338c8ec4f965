# SPDX-License-Identifier: Apache-2.0
"""Running a trainer's teachers once over its data, and keeping what they say."""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..checks import require_count, require_known
from ..kernels.signals import TeacherSignal
from ..models.batch import Batch, padded
from ..models.fingerprint import fingerprint
from ..models.offload import is_sharded
from ..models.precision import quantization_name
from ..models.signal_store.documents import KEY_BYTES, StoredDocument
from ..models.signal_store.facts import (
    digest_of,
    knows_weights,
    store_facts,
    teacher_fingerprint,
    tokenizer_fingerprint,
)
from ..models.signal_store.measured import record_bytes, record_of
from ..models.signal_store.records import DTYPES, bytes_per_position
from ..models.signal_store.writer import StoreWriter, plan_shards, write_head
from ..progress.bars import ProgressBar
from ..teachers.base import Teacher
from ..views import LinearHead
from .run_documents import documents_in, loaded_datasets, require_found_by_tokens
from .stored_rows import run_template


class _Shard(NamedTuple):
    """The batches of one shard, all of one teacher's documents."""

    teacher: str
    batches: list[list[StoredDocument]]


def cache_teachers(
    trainer: Any,
    folder: str | os.PathLike,
    *,
    dtype: str = "bfloat16",
    top_k: int | None = None,
    batch_size: int | None = None,
    shard_bytes: int = 256_000_000,
    say: Callable[[str], Any] = print,
) -> dict[str, Any]:
    """
    Writes what a trainer's teachers say of its training and evaluation data.

    What was finished before a kill is kept. Of several processes each writes its own shards.

    Args:
        trainer ([`~training.trainer.ContrastiveRobustTrainer`]):
            As it would train: teachers, data, packing.
        folder (`str` or `os.PathLike`):
            Where to write.
        dtype (`str`, *optional*, defaults to `"bfloat16"`):
            Of the states: `bfloat16`, `float32`, `float16` or `int8`.
        top_k (`int`, *optional*):
            Keeps as many of the most probable tokens with their log-probabilities in float32, in place of states: lossy.
        batch_size (`int`, *optional*):
            Documents of a pass. None: the run's per_device_train_batch_size, in the order of the data, so that a run without
            shuffling and packing reads the same bits that the teacher would have given.
        shard_bytes (`int`, *optional*, defaults to 256 MB):
            Size at which a shard is full.
        say (`Callable`, *optional*):
            Takes lines for the user.

    Returns:
        `dict`: the index: documents, positions, and `measured`, sums of errors (see [`~models.signal_store.measured.measured_errors`]).

    Raises:
        ValueError: If the run has no teacher, its data streams, the disk is too small, or `top_k` is the whole vocabulary.
    """
    require_known("--dtype", dtype, DTYPES)
    teachers = _teachers_of(trainer)
    if top_k is not None:
        require_count("--top-k", top_k, 1, "It is a number of tokens.")
        dtype = "float32"
    batch_size = batch_size or trainer.args.per_device_train_batch_size
    known = {name: _known(trainer, teacher) for name, teacher in teachers.items()}
    documents = _documents(trainer, [one["fingerprint"] for one in known.values()])
    for (name, teacher), own in zip(teachers.items(), documents, strict=True):
        known[name] |= _shape(trainer, teacher, own[:batch_size])
    narrowest = min(one["vocab_size"] for one in known.values())
    if top_k is not None and top_k >= narrowest:
        raise ValueError(
            f"--top-k: {top_k} tokens are not fewer than the {narrowest} of a teacher's vocabulary, so nothing would be left "
            "out. Give a smaller number, or leave it out, which keeps the whole distribution in less space."
        )
    shards: list[_Shard] = []
    for (name, one), own in zip(known.items(), documents, strict=True):
        batches = [own[start : start + batch_size] for start in range(0, len(own), batch_size)]
        counts = [sum(document.kept_count for document in batch) for batch in batches]
        full = max(1, shard_bytes // record_bytes(one["width"], dtype, top_k))
        shards += [_Shard(name, batches[part.start : part.stop]) for part in plan_shards(counts, full)]

    accelerator, main = trainer.accelerator, trainer.accelerator.is_main_process
    heads = {name: teacher.head(trainer._causal_lm) for name, teacher in teachers.items()} if main else {}
    if main:
        _require_space(Path(folder), known, shards, dtype, top_k, heads, say)
    for name in teachers:
        if top_k is not None:
            known[name] |= {"k": top_k}
        elif main:
            known[name] |= write_head(folder, heads[name])
    keys = b"".join(
        _key(one, known[shard.teacher]) + _read_key(one)
        for shard in shards
        for batch in shard.batches
        for one in batch
    )
    facts = store_facts(
        kind="states" if top_k is None else "top_k",
        dtype=dtype,
        teachers=known,
        tokenizer=tokenizer_fingerprint(trainer._tokenizer),
        chat_template=run_template(trainer),
        max_length=trainer.args.max_length,
        shards=len(shards),
        rows=digest_of(keys),
        batch_size=batch_size,
    )
    if main:
        writer = StoreWriter(folder, facts)
    accelerator.wait_for_everyone()
    if not main:
        writer = StoreWriter(folder, facts, main=False)
    own_numbers = range(accelerator.process_index, len(shards), accelerator.num_processes)
    sizes = {
        number: sum(one.kept_count for batch in shards[number].batches for one in batch) for number in own_numbers
    }
    missing = [number for number in writer.missing() if number in sizes]
    accelerator.wait_for_everyone()  # before the first is written, that all may see the same
    done = sum(sizes.values()) - sum(sizes[number] for number in missing)
    with ProgressBar(
        total=sum(sizes.values()),
        initial=done,
        desc="keeping the teacher",
        unit="position",
        unit_scale=True,
        disable=not main,
    ) as bar:
        for number in missing:
            shard = shards[number]
            _write(
                trainer, writer, number, shard, teachers[shard.teacher], known[shard.teacher], dtype, top_k, bar.update
            )
    accelerator.wait_for_everyone()
    index = writer.finish() if main else {}
    accelerator.wait_for_everyone()
    return index


def _teachers_of(trainer: Any) -> dict[str, Teacher]:
    passes = getattr(trainer, "_extra_passes", None)
    if passes is None or passes.teacher is None:
        raise ValueError(
            "cache-teacher: no term of this run reads a teacher, so there would be nothing to keep. Give distillation_weight or "
            "contrastive_weight a value above 0."
        )
    if passes.teacher.lossy:
        raise ValueError(
            f"cache-teacher: the teacher ({passes.teacher.name}) gives its most probable tokens and no hidden states, so there is "
            "nothing to keep. `hf-ckt import-logprobs` keeps such tokens."
        )
    if is_sharded(trainer.accelerator):
        raise ValueError(
            "cache-teacher: the teacher would be sharded, and each process runs it over other rows. Start it without FSDP and "
            "DeepSpeed; device_map in teacher_model_init_kwargs spreads a model that is too large for one device."
        )
    require_found_by_tokens(trainer, "cache-teacher", "it is not known how much there is")
    return passes.teacher.parts or {"": passes.teacher}


def _known(trainer: Any, teacher: Teacher) -> dict[str, Any]:
    facts = teacher.manifest()
    if not knows_weights(facts):
        # The student's own base: of its weights those that no adapter has added.
        facts["weights"] = fingerprint(trainer._causal_lm, frozen_only=True)
        # Quantized weights are left out of it.
        facts["quantization"] = quantization_name(getattr(trainer._causal_lm.config, "quantization_config", None))
    return {**facts, "fingerprint": teacher_fingerprint(facts)}


def _documents(trainer: Any, fingerprints: Sequence[str]) -> list[list[StoredDocument]]:
    """The run's documents by teacher, each once, in the order of the data."""
    found: list[list[StoredDocument]] = [[] for _ in fingerprints]
    seen: dict[bytes, bytes] = {}
    for name, dataset in loaded_datasets(trainer).items():
        for some in documents_in(trainer, name, dataset, trainer.data_collator):
            for one in some.documents:
                key = one.key(fingerprints[one.route])
                read = _read_key(one)
                if seen.get(key, read) != read:
                    text = trainer._tokenizer.decode(one.ids[:12].tolist())
                    raise ValueError(
                        f"cache-teacher: {name} has a text ({text!r}) twice behind which the teacher reads different contexts, and "
                        "it is found by the text alone. Drop one of them, or let the teacher run in each step."
                    )
                if key not in seen:
                    seen[key] = read
                    found[one.route].append(_copied(one))
    return found


def _copied(one: StoredDocument) -> StoredDocument:
    # Of a view, the whole batch would stay in memory.
    context = None if one.context is None else _copied(one.context)
    return StoredDocument(one.ids.astype("int32"), one.kept.copy(), one.route, context)


def _shape(trainer: Any, teacher: Teacher, first: list[StoredDocument]) -> dict[str, Any]:
    """What a teacher's states are like, of a first batch."""
    if first:
        states, head = _read(trainer, teacher, first)
    else:
        head = teacher.head(trainer._causal_lm)
        states = head.weight[:0]
    return {
        "states_dtype": str(states.dtype).removeprefix("torch."),
        "width": head.weight.shape[1],
        "vocab_size": head.weight.shape[0],
    }


def _key(document: StoredDocument, known: dict[str, Any]) -> bytes:
    return document.key(known["fingerprint"])


def _read_key(document: StoredDocument) -> bytes:
    """What tells the context that a teacher reads from another one; it is no part of what the document is found by."""
    return b"" if document.context is None else document.context.key("")


def _read(trainer: Any, teacher: Teacher, documents: list[StoredDocument]) -> TeacherSignal:
    """What a teacher says of documents, padded as the run's data collator pads."""
    batch = _batch(trainer, documents)
    contexts = [one.context for one in documents if one.context is not None]
    if contexts:
        batch.context = _batch(trainer, contexts)
    with torch.no_grad(), trainer.accelerator.autocast():
        signal = teacher.signal(batch, trainer._causal_lm)
    if not isinstance(signal, TeacherSignal):
        raise ValueError(
            f"cache-teacher: the teacher ({teacher.name}) does not give hidden states at every position, so there is nothing to "
            "keep. Let it run in each step."
        )
    return signal


def _batch(trainer: Any, documents: list[StoredDocument]) -> Batch:
    texts: Any = [one.ids for one in documents]
    ids, mask = padded(texts, trainer._tokenizer.pad_token_id or 0, trainer.args.pad_to_multiple_of or 1)
    labels = torch.full_like(ids, -100)
    for row, one in enumerate(documents):
        end = len(one.ids)
        labels[row, 1:end] = torch.where(torch.from_numpy(one.kept)[:-1], ids[row, 1:end], -100)
    device = trainer.accelerator.device
    return Batch({"input_ids": ids.to(device), "attention_mask": mask.to(device)}, labels.to(device))


def _write(
    trainer: Any,
    writer: StoreWriter,
    number: int,
    shard: _Shard,
    teacher: Teacher,
    known: dict[str, Any],
    dtype: str,
    top_k: int | None,
    update: Callable[[int], Any],
) -> None:
    documents = [one for batch in shard.batches for one in batch]
    pieces: list[dict[str, Tensor]] = []
    sums: Counter[str] = Counter()
    for batch in shard.batches:
        states, head = _read(trainer, teacher, batch)
        record, measured = record_of(states, head, dtype, top_k)
        pieces.append(record)
        sums.update(measured)
        update(len(states))
    fields = {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}
    keys = [_key(one, known) for one in documents]
    writer.write(number, shard.teacher, keys, [one.kept_count for one in documents], fields, sums)


def _require_space(
    folder: Path,
    known: dict[str, dict[str, Any]],
    shards: Sequence[_Shard],
    dtype: str,
    top_k: int | None,
    heads: dict[str, LinearHead],
    say: Callable[[str], Any],
) -> None:
    positions = documents = size = 0
    for shard in shards:
        own = [one.kept_count for batch in shard.batches for one in batch]
        positions, documents = positions + sum(own), documents + len(own)
        size += sum(own) * record_bytes(known[shard.teacher]["width"], dtype, top_k) + len(own) * (KEY_BYTES + 8)
    different = {head.key: head for head in heads.values()}
    if top_k is None:
        size += sum(one.nbytes for head in different.values() for one in (head.weight, head.bias) if one is not None)
    there = sum(path.stat().st_size for path in folder.glob("*.safetensors")) if folder.is_dir() else 0
    around = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(around).free
    dense = max((one.weight.shape[0] * one.weight.element_size() for one in different.values()), default=0) * positions
    say(
        f"{documents:,} documents, {positions:,} positions: {_gigabytes(size)} on disk in {dtype}, {_gigabytes(free)} are free "
        f"(their logits in the head's dtype would take {_gigabytes(dense)})."
    )
    if size - there > free:
        raise ValueError(
            f"--output: {_gigabytes(size - there)} are still to be written to {folder.name!r}, and {_gigabytes(free)} are free "
            "there, so the disk would be full before the end. Free some, name another disk, or take --dtype int8 "
            f"({bytes_per_position(576, 'int8') / bytes_per_position(576, dtype):.0%} of this)."
        )


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:,.2f} GB" if size >= 1e8 else f"{size / 1e6:,.2f} MB"
