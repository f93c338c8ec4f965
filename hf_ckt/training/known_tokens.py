# SPDX-License-Identifier: Apache-2.0
"""Data that holds tokens which a model of the run cannot read: known before training where the data is at hand."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow.compute as pc
import torch
from datasets import Dataset

from ..models.positions import learned_positions
from ..models.token_map import embedding_rows, unknown_tokens
from .collator import CONTEXT_PREFIX, PREFIX

_SHOWN = 3
_PREFIXES = ("", PREFIX, CONTEXT_PREFIX)


@dataclass
class KnownTokens:
    """
    A data collator that raises at the first batch with a token that cannot be read: what streams, or is first seen in an
    evaluation, cannot be looked through before.

    Args:
        inner (`Callable`):
            The data collator.
        unknown (`Mapping[int, str]`):
            Ids that cannot be read, and their tokens.
        who (`str`), remedy (`str`):
            Whose ids they are, and what to do, for the message.
        padding (`int`, *optional*):
            Id of the padding token, where the model is given another in its place: it is let through where no token that
            counts reads it. None: the model looks up its embedding.
    """

    inner: Callable[[list[dict[str, Any]]], dict[str, Any]]
    unknown: Mapping[int, str]
    who: str
    remedy: str
    padding: int | None = None
    _ids: torch.Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._ids = torch.tensor(sorted(self.unknown))

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch = self.inner(examples)
        ids = batch["input_ids"]
        found = torch.isin(ids, self._ids)
        if self.padding is not None:
            found = found & ~((ids == self.padding) & _unread(batch))
        if found.any():
            self.refuse(set(ids[found].tolist()), "a batch")
        return batch

    def check(self, datasets: Mapping[str, Any]) -> None:
        """Raises ValueError if a dataset that lies tokenized in memory or on disk holds such a token."""
        for name, dataset in datasets.items():
            if isinstance(dataset, dict):
                self.check({f"{name}[{key!r}]": value for key, value in dataset.items()})
            elif isinstance(dataset, Dataset):
                found = {index for prefix in _PREFIXES for index in _ids_of(dataset, prefix) if index in self.unknown}
                if found:
                    self.refuse(found, name)

    def refuse(self, found: set[int], where: str) -> None:
        """Raises ValueError, naming tokens that were found."""
        shown = ", ".join(f"{self.unknown[index]!r} ({index})" for index in sorted(found)[:_SHOWN])
        others = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise ValueError(
            f"{self.who}: does not have {len(found)} of the tokens that {where} holds: {shown}{others}. It has no trained "
            f"embedding for them, so neither they nor what follows them could be read. {self.remedy}"
        )


def _unread(batch: dict[str, Any]) -> torch.Tensor:
    """Where a mask `(B, T)` hides a token or, without one, none that counts comes behind it."""
    mask, labels = batch.get("attention_mask"), batch["labels"]
    if isinstance(mask, torch.Tensor) and mask.shape == labels.shape:
        return ~mask.bool()
    return (labels != -100).flip(1).cumsum(1).flip(1) == 0


def _ids_of(dataset: Dataset, prefix: str) -> set[int]:
    """The ids that a tokenized dataset holds where they are attended to."""
    ids, mask = f"{prefix}input_ids", f"{prefix}attention_mask"
    if ids not in dataset.column_names:
        return set()
    columns = [name for name in (ids, mask) if name in dataset.column_names]
    seen: set[int] = set()
    for batch in dataset.select_columns(columns).with_format("arrow").iter(batch_size=1000):
        flat = batch.column(ids).combine_chunks().flatten()
        if mask in columns:
            flat = flat.filter(batch.column(mask).combine_chunks().flatten().cast("bool"))
        seen.update(flat.unique().to_pylist())
    return seen


def require_known_tokens(trainer: Any, unknown_to_teacher: Mapping[int, str]) -> Callable:
    """
    Looks through a trainer's data for tokens that its student or its teacher cannot read.

    Args:
        trainer ([`~training.trainer.ContrastiveRobustTrainer`]):
            Its model and data are prepared.
        unknown_to_teacher (`Mapping[int, str]`):
            What the teacher cannot read.

    Returns:
        `Callable`: the trainer's data collator, checking each batch where there is anything to check.

    Raises:
        ValueError: If there is such a token.
    """
    collator: Any = trainer.data_collator
    unknown = unknown_tokens(trainer._tokenizer.get_vocab(), embedding_rows(trainer._causal_lm))
    for who, ids, remedy in (
        ("model", unknown, "Call model.resize_token_embeddings(len(tokenizer)) after adding tokens."),
        (
            "teacher_model",
            unknown_to_teacher,
            "Name in teacher_token_map={'<token>': '<token that both have>'} what it shall read instead, or use a teacher "
            "with these tokens.",
        ),
    ):
        if ids:
            # A teacher reads another token in the place of a padding token that it does not have.
            padding = None if who == "model" else trainer._tokenizer.pad_token_id
            collator = KnownTokens(collator, ids, who, remedy, padding)
            collator.check({"train_dataset": trainer.train_dataset, "eval_dataset": trainer.eval_dataset})
    return collator


def require_readable_rows(trainer: Any) -> None:
    """
    Raises ValueError where truncation left no row, a row is longer than the positions that a model has learned, or holds an
    id that it has no embedding for.
    """
    rows = trainer.train_dataset
    if not isinstance(rows, Dataset) or "input_ids" not in rows.column_names:
        return
    if not len(rows):
        raise ValueError(
            f"max_length={trainer.args.max_length}: of no row is an answer left within it, so there is nothing to train on. "
            "Raise it, or set truncation_mode='keep_end'."
        )
    largest = longest = 0
    for batch in rows.select_columns("input_ids").with_format("arrow").iter(10_000):
        ids = batch["input_ids"]
        largest = max(largest, pc.max(pc.list_flatten(ids)).as_py() or 0)
        longest = max(longest, pc.max(pc.list_value_length(ids)).as_py())
    if largest >= embedding_rows(trainer.model):
        raise ValueError(
            f"dataset_name: a row holds the token id {largest}, and the model has embeddings for {embedding_rows(trainer.model)} "
            "tokens. Tokenize the texts with the model's own tokenizer, or drop the column input_ids."
        )
    positions = learned_positions(trainer.model)
    if positions is None or trainer.padding_free:  # positions there begin anew with each document
        return
    if longest > positions:
        raise ValueError(
            f"max_length={trainer.args.max_length}: a row has {longest} tokens, and the model has learned {positions} "
            f"positions, behind which it cannot read. Set max_length={positions} or less."
        )
