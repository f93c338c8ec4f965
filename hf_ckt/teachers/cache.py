# SPDX-License-Identifier: Apache-2.0
"""What teachers said of the data, read from files in place of running them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import PreTrainedModel

from ..kernels.signals import RoutedSignal, Signal, SignalPart, TeacherSignal, TopKSignal
from ..models.batch import ROUTES, STORED, Batch
from ..models.signal_store.facts import tokenizer_fingerprint
from ..models.signal_store.reader import StoreReader
from ..models.signal_store.records import IDS, LOG_PROBS, decode
from ..views import LinearHead
from .base import Teacher, TeacherSetup


class CacheTeacher(Teacher):
    """
    One or several teachers that were run once over the data: `hf-ckt cache-teacher` has written their last hidden states
    at the positions that count, and their heads. None of them is in memory, and no pass of theirs is in a step.

    In the teacher's own dtype it teaches what the teacher itself would, to the last bit for equal batches; in a narrower
    one, or of batches padded otherwise, to rounding. A cache of top-k log-probabilities teaches what those say.

    Source: this package's own. DistillKit and others keep the most probable tokens' log-probabilities.
    Related: [`ModelTeacher`] reads any text, also one that was never cached.

    Args:
        reader ([`~models.signal_store.reader.StoreReader`]):
            The cache.
    """

    def __init__(self, reader: StoreReader):
        self.reader = reader
        self.unknown = {}
        self.lossy = reader.lossy
        known = reader.teachers
        self.sided = len(known) > 1
        self.name = (
            ", ".join(f"{name}: {one['name']}" if name else one["name"] for name, one in known.items()) + " (cached)"
        )
        files = {one["head"]: name for name, one in known.items()} if not self.lossy else {}
        whole = {file: reader.head(name) for file, name in files.items()}
        self._heads = {name: whole[one["head"]] for name, one in known.items()} if whole else {}
        # Caches of several teachers, each on its own rows, may meet in one batch.
        self._prefix = f"{reader.facts['rows'][:8]}_"

    @classmethod
    def load(cls, source: Any, setup: TeacherSetup, *, verify: bool = True) -> "CacheTeacher":  # type: ignore[override]
        """
        Args:
            source (`str` or `os.PathLike`):
                The folder that was the `--output` of `hf-ckt cache-teacher`.
            setup ([`~teachers.base.TeacherSetup`]):
                The run's.
            verify (`bool`, *optional*, defaults to `True`):
                Whether every file is compared with its checksum, which reads the cache once.

        Raises:
            ValueError: If it is not a finished cache, is damaged, or was written with another tokenizer.
        """
        reader = StoreReader(source, verify=verify)
        if reader.facts["tokenizer"] not in (None, tokenizer_fingerprint(setup.tokenizer)):
            raise ValueError(
                f"teacher_cache: {reader.folder.name!r} was written with another tokenizer than the student's, so an id would "
                "mean one token to the teacher and another to the student. Run `hf-ckt cache-teacher` with this run's."
            )
        teacher = cls(reader)
        # Of sharded weights, none stay where they are.
        if not setup.sharded:
            teacher._share_with(setup.causal_lm)
        return teacher

    def _share_with(self, student: PreTrainedModel | None) -> None:
        """Takes the student's own output embedding where it is frozen and the same: that of a cache of its base."""
        module: Any = None if student is None else student.get_output_embeddings()
        own: Tensor | None = getattr(module, "weight", None)
        if own is None or own.requires_grad or own.is_meta or not own.is_floating_point():
            return
        for name, head in self._heads.items():
            weight = head.weight
            if (
                weight.shape == own.shape
                and weight.dtype == own.dtype
                and torch.equal(weight, own.detach().to(weight.device))
            ):
                self._heads[name] = head._replace(weight=own.detach())

    def place(self, accelerator: Accelerator) -> None:
        device, moved = accelerator.device, dict[int, Tensor]()

        def move(tensor: Tensor) -> Tensor:
            # Once for teachers that share it.
            return moved.setdefault(id(tensor), tensor.to(device))

        self._heads = {
            name: head._replace(weight=move(head.weight), bias=None if head.bias is None else move(head.bias))
            for name, head in self._heads.items()
        }

    def signal(self, batch: Batch, student: PreTrainedModel) -> Signal:
        record = self._record(batch)
        names = list(self.reader.teachers)
        if len(names) == 1:
            return self._said(names[0], record)
        parts = []
        for number, name in enumerate(names):
            positions = (batch.kept_routes == number).nonzero().squeeze(1)
            own = {field: values.index_select(0, positions.to(values.device)) for field, values in record.items()}
            parts.append(SignalPart(name, positions, self._said(name, own)))
        return RoutedSignal(tuple(parts))

    def _record(self, batch: Batch) -> dict[str, Tensor]:
        found = {
            name.removeprefix(self._prefix): values
            for name, values in batch.stored.items()
            if name.startswith(self._prefix)
        }
        if found:
            return found
        # Of a data loader that does not look things up: it waits for the device.
        own = {name: value.cpu() if isinstance(value, Tensor) else value for name, value in batch.inputs.items()}
        routes = None if batch.routes is None else batch.routes.cpu()
        record = self.reader.look_up(Batch(own, batch.labels.cpu(), routes))
        return {name: values.to(batch.labels.device) for name, values in record.items()}

    def _said(self, name: str, record: dict[str, Tensor]) -> TeacherSignal | TopKSignal:
        if self.lossy:
            return TopKSignal(record[IDS].long(), record[LOG_PROBS].float())
        facts = self.reader.teachers[name]
        states = decode(record, getattr(torch, facts["states_dtype"]))[:, : facts["width"]]
        return TeacherSignal(states.contiguous(), self._heads[name])

    def head(self, student: PreTrainedModel) -> LinearHead:
        return next(iter(self._heads.values()))

    def facts(self) -> dict[str, Any]:
        known = {
            name: {key: value for key, value in one.items() if key != "head"}
            for name, one in self.reader.teachers.items()
        }
        whose = known.get("", {"name": self.name, "teachers": known})
        return {**whose, "kind": "cache", "dtype": self.reader.facts["dtype"]}

    def collator(self, inner: Callable) -> Callable:
        return _LookedUp(inner, self.reader, STORED + self._prefix)


@dataclass
class _LookedUp:
    """A data collator that adds to each batch what is stored for it, in the workers of a data loader where there are any."""

    inner: Callable[[list[dict[str, Any]]], dict[str, Any]]
    reader: StoreReader
    prefix: str

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch = self.inner(examples)
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        # Where rows name teachers of which this is one, the others' documents are not here.
        strict = len(self.reader.teachers) > 1 or ROUTES not in batch
        found = self.reader.look_up(Batch(inputs, batch["labels"], batch.get(ROUTES)), strict=strict)
        return {**batch, **{self.prefix + name: values for name, values in found.items()}}
