# SPDX-License-Identifier: Apache-2.0
"""Whether a cache of a teacher's signals is one of this run's data, said before training."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from ..models.signal_store.documents import StoredDocument
from ..models.signal_store.facts import template_fingerprint
from ..models.signal_store.reader import StoreReader
from ..teachers.base import Teacher
from ..teachers.cache import CacheTeacher
from ..teachers.privileged_context import prompt_digest
from .run_documents import collates_rejected, documents_in, loaded_datasets
from .teachers import require_one_way

logger = logging.getLogger(__name__)

_SHOWN = 3


def cached_teachers(
    folder: str | None, teacher_model: Any, teachers: Mapping[str, Any] | None
) -> tuple[Any, Mapping[str, Any] | None, list[str]]:
    """
    Puts a cache in the place of the teachers that it was made of.

    Args:
        folder (`str`, *optional*):
            The config's `teacher_cache`.
        teacher_model (`Any`), teachers (`Mapping[str, Any]`, *optional*):
            As the trainer was given them.

    Returns:
        `tuple[Any, Mapping | None, list[str]]`: the two as they are to be loaded, and the names that rows may give.

    Raises:
        ValueError: If the cache is of other teachers, or what is given is no teacher.
    """
    require_one_way(teacher_model, teachers)
    if isinstance(teacher_model, Mapping) and isinstance(teacher_model.get("routed"), Mapping):
        teacher_model, teachers = None, teacher_model["routed"]  # another way to write it
    names = [*(teachers or {})]
    if isinstance(teacher_model, CacheTeacher):
        known = teacher_model.reader.teachers
        return teacher_model, None, [*known] if len(known) > 1 else []
    if folder is None and isinstance(teacher_model, Mapping):
        folder = teacher_model.get("cache")
    if folder is None:
        return teacher_model, teachers, names
    known = StoreReader(folder, verify=False).teachers
    if teachers is not None and names != [*known]:
        raise ValueError(
            f"teacher_cache: is of the teachers {_named(known)}, and teachers names {_named(names)}, so rows would hear another "
            "than they name. Name the same in the same order, or leave teachers out."
        )
    if not isinstance(teacher_model, Mapping) or "cache" not in teacher_model:
        if teacher_model is not None or teachers is not None:
            cached = ", ".join(repr(one.get("name")) for one in known.values())
            logger.warning(
                "teacher_cache: the run learns from what the cache holds of %s; the teachers that the run names are not "
                "loaded.",
                cached,
            )
        teacher_model = {"cache": folder}
    return teacher_model, None, [*known] if len(known) > 1 else []


def _named(names: Any) -> str:
    return ", ".join(name or "one without a name" for name in names) or "none"


def with_lookup(trainer: Any, teacher: Teacher) -> Callable:
    """
    Returns a trainer's data collator with what its teacher looks up for each batch.

    Args:
        trainer ([`~training.trainer.ContrastiveRobustTrainer`]):
            Its data is prepared.
        teacher ([`~teachers.base.Teacher`]):
            The run's.

    Raises:
        ValueError: If it is a cache, or has one for some of the rows, that was written with another chat template, max_length
            or system prompt of the teacher's own, has not all of its rows, or is of several teachers where rows name one.
    """
    if isinstance(teacher, CacheTeacher):
        _require_stored(trainer, teacher, trainer.data_collator)
    for number, (name, one) in enumerate(teacher.parts.items()):
        if isinstance(one, CacheTeacher):
            if len(one.reader.teachers) > 1:
                raise ValueError(
                    f"teachers: {name!r} is a cache of several teachers ({_named(one.reader.teachers)}), and a row names only one, "
                    "so it would hear another. Give it as teacher_cache in place of all, or a cache of this one alone."
                )
            _require_stored(trainer, one, trainer.data_collator, number)
    return teacher.collator(trainer.data_collator)


def _require_stored(trainer: Any, teacher: CacheTeacher, collate: Callable, route: int | None = None) -> None:
    """Raises where a cache is not of a run's data, or of its rows that name the teacher of a number."""
    reader = teacher.reader
    wanted = {"max_length": trainer.args.max_length, "chat_template": run_template(trainer)}
    for name, value in wanted.items():
        before = reader.facts[name]
        if before is not None and value != before:
            said = f" ({before}, this run's is {value})" if name == "max_length" else ""
            raise ValueError(
                f"teacher_cache: {reader.folder.name!r} was written with another {name}{said}, so its texts are not this run's. "
                f"Take that {name}, or run `hf-ckt cache-teacher` with this run's configuration into another folder."
            )
    text = trainer.args.teacher_system_prompt
    if text is not None and prompt_digest(text) not in (one.get("context") for one in reader.teachers.values()):
        raise ValueError(
            f"teacher_system_prompt: {reader.folder.name!r} holds what was said behind another one, or behind none, so this one "
            "would be ignored. Leave it out, or run `hf-ckt cache-teacher` with it into another folder."
        )
    collate = collates_rejected(trainer, collate)
    for name, dataset in loaded_datasets(trainer).items():
        _require_rows(trainer, reader, name, dataset, collate, route)


def _require_rows(
    trainer: Any, reader: StoreReader, name: str, dataset: Any, collate: Callable, route: int | None
) -> None:
    def absent_of(documents: list[StoredDocument]) -> list[StoredDocument]:
        return reader.missing(own_of(documents))

    def own_of(documents: list[StoredDocument]) -> list[StoredDocument]:
        return [one for one in documents if route is None or one.route == route]

    count = missing = 0
    places: list[str] = []
    for some in documents_in(trainer, name, dataset, collate):
        count += len(own_of(some.documents))
        absent = len(absent_of(some.documents))
        missing += absent
        if absent and len(places) < _SHOWN:
            # Row by row, to tell which it is.
            rows = dataset.select(range(some.first, min(some.first + 16, len(dataset))))
            for one in documents_in(trainer, name, rows, collate, rows=1):
                first = next(iter(absent_of(one.documents)), None)
                if first is not None:
                    text = trainer._tokenizer.decode(first.ids[:12].tolist())
                    places.append(f"row {some.first + one.first}, {text!r}")
    if missing:
        raise ValueError(
            f"teacher_cache: {reader.folder.name!r} holds nothing on {missing:,} of the {count:,} documents of {name} (first: "
            f"{'; '.join(places[:_SHOWN])}), so nobody would teach them. Run `hf-ckt cache-teacher --config run.yaml --output "
            "DIR` with this run's configuration and data."
        )


def run_template(trainer: Any) -> str | None:
    """Returns the fingerprint of the chat template that a trainer's texts are written with."""
    return template_fingerprint(getattr(trainer, "chat_template", None) or trainer._tokenizer.chat_template)
