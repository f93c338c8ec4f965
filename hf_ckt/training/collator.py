# SPDX-License-Identifier: Apache-2.0
"""Batches that carry a second text beside the first."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..data.row_marks import SWITCHES, RowMarks, counts_for
from ..models.batch import ROUTES, STORED, Batch

PREFIX = "rejected_"


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
        plain = [{k: v for k, v in example.items() if not k.startswith(PREFIX)} for example in examples]
        second = [
            {k.removeprefix(PREFIX): v for k, v in example.items() if k.startswith(PREFIX)} for example in examples
        ]
        batch = self.inner(plain)
        if all("input_ids" in example for example in second):
            batch |= {f"{PREFIX}{name}": value for name, value in self.inner(second).items()}
        return batch


def split_rejected(inputs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Separates a batch into its plain part and, without the prefix, its rejected part (None if it has none)."""
    plain = {name: value for name, value in inputs.items() if not name.startswith(PREFIX)}
    rejected = {name.removeprefix(PREFIX): value for name, value in inputs.items() if name.startswith(PREFIX)}
    return plain, rejected or None


def read_batch(inputs: dict[str, Any], marks: RowMarks) -> tuple[Batch, dict[str, Tensor]]:
    """
    Takes what is no input of a model out of a collated batch.

    Returns:
        `tuple[Batch, dict[str, torch.Tensor]]`: the batch, and where the roles that leave rows out count, `(N,)` each.
    """
    stored = {name.removeprefix(STORED): inputs.pop(name) for name in list(inputs) if name.startswith(STORED)}
    batch = Batch(inputs, inputs.pop("labels"), inputs.pop(ROUTES, None), stored=stored)
    switches = inputs.pop(SWITCHES, None)
    if switches is None:
        return batch, {}
    kept = batch.at_kept(switches)
    return batch, {role: counts_for(kept, role, marks.roles) for role in marks.role_rows}
