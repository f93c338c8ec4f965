# SPDX-License-Identifier: Apache-2.0
"""Batches that carry a second text beside the first."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..data.row_marks import SWITCHES, RowMarks, counts_for
from ..models.batch import ROUTES, STORED, Batch

PREFIX = "rejected_"
CONTEXT_PREFIX = "hf_ckt_context_"


@dataclass
class RejectedCollator:
    """
    Collates `rejected_input_ids` and `rejected_labels` with the same collator as `input_ids` and `labels`.

    Args:
        inner (`Callable`):
            Data collator of the plain columns; called a second time for the rejected ones, whose outputs get the
            prefix `rejected_`.
    """

    inner: Callable[[list[dict[str, Any]]], dict[str, Any]]

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch, second = _collated(self.inner, examples, PREFIX)
        return batch | _named(second, PREFIX)


@dataclass
class ContextCollator:
    """
    Collates what the teacher alone reads as [`RejectedCollator`] does, and checks that the answers are the same.

    Args:
        inner (`Callable`):
            Data collator of the plain columns.
    """

    inner: Callable[[list[dict[str, Any]]], dict[str, Any]]

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch, second = _collated(self.inner, examples, CONTEXT_PREFIX)
        if second:
            own, read = (Batch({}, one["labels"]).kept_labels for one in (batch, second))
            if not torch.equal(own, read):
                raise ValueError(
                    f"privileged_context: of a batch of {len(examples)} rows the student has {len(own)} answer tokens and the "
                    f"teacher {len(read)}, or other ones, so they would be compared at other words. Prepare both texts of a row "
                    f"with the same answer, in input_ids, labels and {CONTEXT_PREFIX}input_ids, {CONTEXT_PREFIX}labels."
                )
        return batch | _named(second, CONTEXT_PREFIX)


def _collated(inner: Callable, examples: list[dict[str, Any]], prefix: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The plain columns collated, and those with a prefix, without it: empty where an example has none."""
    second = [{k.removeprefix(prefix): v for k, v in example.items() if k.startswith(prefix)} for example in examples]
    plain = [{k: v for k, v in example.items() if not k.startswith(prefix)} for example in examples]
    return inner(plain), inner(second) if all("input_ids" in example for example in second) else {}


def _named(batch: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {f"{prefix}{name}": value for name, value in batch.items()}


def split_rejected(inputs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Separates a batch into its plain part and, without the prefix, its rejected part (None if it has none)."""
    plain = {name: value for name, value in inputs.items() if not name.startswith(PREFIX)}
    rejected = {name.removeprefix(PREFIX): value for name, value in inputs.items() if name.startswith(PREFIX)}
    return plain, rejected or None


def read_batch(inputs: dict[str, Any], marks: RowMarks, only: str | None = None) -> tuple[Batch, dict[str, Tensor]]:
    """
    Takes what is no input of a model out of a collated batch.

    Args:
        inputs (`dict`):
            The batch.
        marks ([`~data.row_marks.RowMarks`]):
            The run's.
        only (`str`, *optional*):
            A role: nothing is kept of rows that it leaves out.

    Returns:
        `tuple[Batch, dict[str, torch.Tensor]]`: the batch, and where the roles that leave rows out count, `(N,)` each.
    """
    stored = {name.removeprefix(STORED): inputs.pop(name) for name in list(inputs) if name.startswith(STORED)}
    names = [name for name in inputs if name.startswith(CONTEXT_PREFIX)]
    read = {name.removeprefix(CONTEXT_PREFIX): inputs.pop(name) for name in names}
    context = read_batch(read, marks, only=only)[0] if read else None
    labels, routes, switches = inputs.pop("labels"), inputs.pop(ROUTES, None), inputs.pop(SWITCHES, None)
    if only is not None and switches is not None:
        heard = counts_for(Batch({}, labels).at_kept(switches), only, marks.roles)
        stored = {name: values[heard.to(values.device)] for name, values in stored.items()}
        labels = labels.masked_fill(~counts_for(switches, only, marks.roles), -100)
    batch = Batch(inputs, labels, routes, context, stored)
    for values in stored.values():
        if len(values) != len(batch.kept):
            raise ValueError(
                f"teacher_cache: a batch has {len(batch.kept)} tokens that count and {len(values)} records of a teacher, so the "
                "data loader has cut it by rows and they would be read at other words. Leave dispatch_batches in "
                "accelerator_config False."
            )
    if switches is None:
        return batch, {}
    kept = batch.at_kept(switches)
    return batch, {role: counts_for(kept, role, marks.roles) for role in marks.role_rows}
