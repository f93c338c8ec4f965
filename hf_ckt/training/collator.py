# SPDX-License-Identifier: Apache-2.0
"""Batches that carry a second text beside the first."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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
