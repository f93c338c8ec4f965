# SPDX-License-Identifier: Apache-2.0
"""
What a row of a dataset says about itself (its teacher, the roles that leave it out), carried to the batch within its labels.

A dataset's preparation keeps no other column through packing, and a data collator lays out no other: so a row's mark is
added to each of its labels that counts, in the bits above a token's id, and taken off again once the batch is laid out.
"""

import copy
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor

from ..checks import nearest, require_known
from ..models.batch import ROUTES

logger = logging.getLogger(__name__)

# Above every id of a token.
_STRIDE = 2**31
# Of a mark: below it the teacher's number, above it one bit for each role that is off.
_TEACHERS = 2**16
TEACHER_COLUMN = "teacher"
# What a collated batch holds beside ROUTES, `(B, T)`.
SWITCHES = "hf_ckt_switches"


def marked(labels: Sequence[int], mark: int) -> list[int]:
    """
    Returns labels with a mark in each that counts.

    Example:

    >>> marked([-100, 7], 3)
    [-100, 6442450951]
    """
    return [label if label == -100 else label % _STRIDE + mark * _STRIDE for label in labels]


def unmarked_list(labels: Sequence[int]) -> list[int]:
    """Returns labels as they were, those that count without their marks."""
    return [label if label == -100 else label % _STRIDE for label in labels]


def unmarked(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Returns labels as they were, and the mark at each that counts: 0 where there is none."""
    counts = labels >= 0
    return torch.where(counts, labels % _STRIDE, labels), torch.where(counts, labels // _STRIDE, 0)


def require_row_rules(rules: Mapping[str, Any], roles: Sequence[str], without_rows: Mapping[str, str]) -> None:
    """
    Raises ValueError where rules of which rows a role counts on cannot be followed.

    Args:
        rules (`Mapping[str, Any]`):
            By role, see [`RowMarks`].
        roles (`Sequence[str]`):
            All roles.
        without_rows (`Mapping[str, str]`):
            Roles whose loss reads no row, each with that loss's name.
    """
    for role, rule in rules.items():
        require_known("role_rows", role, roles)
        if not isinstance(rule, dict) or not rule:
            raise ValueError(
                f"role_rows[{role!r}]: must name columns and the values that count, such as {{'teacher': 'base'}}, got "
                f"{rule!r}, so no row could be chosen."
            )
        if role in without_rows:
            raise ValueError(
                f"role_rows[{role!r}]: {without_rows[role]} is a penalty on parameters and reads no row, so the rule would "
                f"be ignored. Use {role}_loss='reference_kl', or leave the rule out."
            )


@dataclass
class RowMarks:
    """
    Reads what rows say about themselves, and checks it.

    Args:
        teachers (`Sequence[str]`, *optional*):
            Names that the column `teacher` may hold; rows without one hear the first.
        role_rows (`Mapping[str, Mapping[str, Any]]`, *optional*):
            By role, the rows that it counts on: column to a value, or a list of values, all of which must hold.
        roles (`Sequence[str]`):
            All roles, in the order of their bits.
    """

    teachers: Sequence[str] = ()
    role_rows: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    roles: Sequence[str] = ()

    def __post_init__(self) -> None:
        self.teachers = [str(name) for name in self.teachers]
        self._unheard: str | None = None  # the first row that names a teacher where there are none to choose from
        self._one_teaches = False
        self._said: set[str] = set()

    def __bool__(self) -> bool:
        return bool(self.teachers) or bool(self.role_rows)

    def __getstate__(self) -> dict[str, Any]:
        # What decides a mark and nothing else: a cache of marked rows is found by it.
        return {"teachers": self.teachers, "role_rows": self.role_rows, "roles": self.roles}

    def require_markable(self, args: Any) -> None:
        """
        Raises ValueError where a configuration leaves no way to mark rows, or to tell them apart.

        Args:
            args ([`~trl.SFTConfig`]):
                The trainer's configuration.
        """
        setting = "teachers" if self.teachers else "role_rows"
        if self and (args.dataset_kwargs or {}).get("skip_prepare_dataset"):
            raise ValueError(
                f"{setting}: dataset_kwargs={{'skip_prepare_dataset': True}} leaves the dataset as it is, so no row could say "
                "its teacher or its roles and all would be taken alike. Let the trainer prepare the dataset, which may be "
                f"tokenized, or leave {setting} out."
            )
        if len(self.teachers) > 1 and (args.packing or args.eval_packing) and args.packing_strategy == "wrapped":
            raise ValueError(
                "teachers: packing_strategy='wrapped' cuts documents and leaves no boundaries, so a teacher would read what "
                "was meant for another. Use packing_strategy='bfd'."
            )

    def require_heard(self) -> None:
        """Says that one teacher teaches all rows; raises ValueError where a row names one, now or when it is prepared."""
        self._one_teaches = not self.teachers
        if self._one_teaches and self._unheard is not None:
            raise ValueError(
                f"{self._unheard}, and no teachers were given by name, so it would learn from the one of all rows. Pass "
                f"teachers={{...}} in place of teacher_model, or remove the column {TEACHER_COLUMN!r}."
            )

    @property
    def columns(self) -> dict[str, str]:
        """The columns that are read, each with the setting that asks for it."""
        asked = {TEACHER_COLUMN: "teachers"} if len(self.teachers) > 1 else {}
        return asked | {column: f"role_rows[{role!r}]" for role, rule in self.role_rows.items() for column in rule}

    def of(self, row: Mapping[str, Any], where: str) -> int:
        """Returns a row's mark."""
        named = teacher_named(row)
        if self.teachers and named is not None and named not in self.teachers:
            raise ValueError(
                f"{where}: its column {TEACHER_COLUMN!r} names {named!r}, and the teachers are {', '.join(self.teachers)}, "
                f"so nobody would teach it.{nearest(named, self.teachers)} Correct the name, give a teacher of this name, or "
                f"leave the cell empty, for {self.teachers[0]}."
            )
        mark = self.teachers.index(named) if self.teachers and named is not None else 0
        for role, rule in self.role_rows.items():
            if not all(self._holds(row, column, wanted) for column, wanted in rule.items()):
                mark += _TEACHERS << self.roles.index(role)
        return mark

    def _holds(self, row: Mapping[str, Any], column: str, wanted: Any) -> bool:
        """Whether a row has one of the values that a rule wants; in an evaluation, where a column may be missing, it does."""
        values = wanted if isinstance(wanted, (list, tuple)) else (wanted,)
        if column == TEACHER_COLUMN and self.teachers and teacher_named(row) is None and self.teachers[0] in values:
            return True  # by the teacher that it hears
        return column not in row or row[column] in values

    def prepare(self, prepare: Callable, dataset: Any, args: Any, **kwargs: Any) -> Any:
        """
        Prepares a dataset as the trainer does, and marks its rows on the way.

        Args:
            prepare (`Callable`):
                The trainer's own preparation, of `dataset`, `args` and `kwargs`.
            dataset (`datasets.Dataset` or `datasets.IterableDataset`):
                With the columns that say it.
            args ([`~trl.SFTConfig`]):
                The trainer's configuration.

        Raises:
            ValueError: If a row names a teacher that there is not, or any where there is only one of all rows, a rule names
                a column that there is not, or no row of a training set is left to a role.
        """
        name = f"{kwargs['dataset_name']} dataset"
        loaded = isinstance(dataset, Dataset)
        training = kwargs["dataset_name"] == "train"
        first: Mapping[str, Any] = next(iter(dataset), {})
        self._note_unheard(dataset, first, name)
        if not self or not self.says_something(first, name, training):
            return prepare(dataset, args=args, **kwargs)
        # First without truncation, packing and shuffling, then these alone: truncation may leave no label to be marked.
        whole = copy.copy(args)
        whole.max_length, whole.shuffle_dataset = None, False
        tokenized = prepare(dataset, args=whole, **{**kwargs, "packing": False})
        mark = partial(self._mark, where=name)
        if not loaded:
            return prepare(tokenized.map(mark), args=args, **kwargs)
        self._look_through(tokenized, name, training)
        marked_rows = tokenized.map(
            mark, with_indices=True, num_proc=args.dataset_num_proc, desc=f"Marking the rows of the {name}"
        )
        return prepare(marked_rows, args=args, **kwargs)

    def _mark(self, row: dict[str, Any], index: int | None = None, *, where: str) -> dict[str, Any]:
        place = where if index is None else f"{where}, row {index}"
        return {"labels": marked(row["labels"], self.of(row, place))}

    def _note_unheard(self, dataset: Any, first: Mapping[str, Any], name: str) -> None:
        """Notes the first row that names a teacher where none can be chosen; of what streams, its first row alone."""
        ruled = any(TEACHER_COLUMN in rule for rule in self.role_rows.values())
        if self.teachers or ruled or self._unheard is not None or TEACHER_COLUMN not in first:
            return
        loaded = isinstance(dataset, Dataset)
        rows = dataset.with_format(None).select_columns([TEACHER_COLUMN]) if loaded else [first]
        named = next(
            ((index, teacher_named(row)) for index, row in enumerate(rows) if teacher_named(row) is not None), None
        )
        if named is not None:
            self._unheard = f"{name}, row {named[0]}: its column {TEACHER_COLUMN!r} names {named[1]!r}"
        if self._one_teaches:
            self.require_heard()

    def says_something(self, first: Mapping[str, Any], name: str, training: bool) -> bool:
        """
        Returns whether rows have a column that says something.

        Args:
            first (`Mapping[str, Any]`):
                One of the rows.
            name (`str`):
                What the dataset is called in messages.
            training (`bool`):
                Whether all that is asked for must be there.

        Raises:
            ValueError: If a column is missing from a training set.
        """
        asked = self.columns
        missing = next((column for column in asked if column not in first), None)
        if training and missing is not None:
            raise ValueError(
                f"{asked[missing]}: the {name} has no column {missing!r}, so all rows would be taken alike."
                f"{nearest(missing, first)} Add the column, or leave the setting out."
            )
        return any(column in first for column in asked)

    def _look_through(self, dataset: Dataset, name: str, training: bool) -> None:
        columns = {TEACHER_COLUMN, *(column for rule in self.role_rows.values() for column in rule)}
        rows = dataset.select_columns([column for column in dataset.column_names if column in columns])
        marks = Counter(self.of(row, f"{name}, row {index}") for index, row in enumerate(rows))
        if not training:
            return
        heard = {mark % _TEACHERS for mark in marks}
        silent = [teacher for number, teacher in enumerate(self.teachers) if number not in heard]
        if silent and name not in self._said:  # some trainers prepare a dataset more than once
            self._said.add(name)
            logger.warning("teachers: no row of the %s hears %s, which teaches nothing.", name, ", ".join(silent))
        for role in self.role_rows:
            off = _TEACHERS << self.roles.index(role)
            if marks and all(mark & off for mark in marks):
                raise ValueError(
                    f"role_rows[{role!r}]: no row of the {name} fulfils {dict(self.role_rows[role])}, so the role would train "
                    f"nothing. Correct the rule, or set {role}_weight=0."
                )


@dataclass
class MarkCollator:
    """
    Takes the marks off the labels of what another data collator laid out.

    Args:
        inner (`Callable`):
            The data collator.
        keep (`bool`, *optional*, defaults to `True`):
            Whether the batch holds them: `hf_ckt_routes` and `hf_ckt_switches`, each `(B, T)`.

    Raises:
        ValueError: If the collator makes labels of its own, of which no mark is to be read.
    """

    inner: Callable[[list[dict[str, Any]]], dict[str, Any]]
    keep: bool = True

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch = self.inner(examples)
        batch["labels"], marks = unmarked(batch["labels"])
        if not marks.any() and any(max(example.get("labels", ()), default=0) >= _STRIDE for example in examples):
            if (batch["labels"] != -100).any():
                raise ValueError(
                    f"data_collator: {type(self.inner).__name__} makes labels of its own in place of the dataset's, in which "
                    "each row says its teacher and its roles, so all would be taken alike. Use one that keeps the labels."
                )
        if self.keep:
            batch[ROUTES], batch[SWITCHES] = marks % _TEACHERS, marks // _TEACHERS
        return batch


def counts_for(switches: Tensor, role: str, roles: Sequence[str]) -> Tensor:
    """Returns where a role counts, of the switches `(N,)` at some positions."""
    return (switches >> roles.index(role)) & 1 == 0


def below_marks(collator: Callable) -> Callable:
    """Returns the data collator that lays out batches which have no marks, such as those made from other batches."""
    return collator.inner if isinstance(collator, MarkCollator) else collator


def teacher_named(row: Mapping[str, Any]) -> str | None:
    """The teacher that a row names; a table's empty cell, which may have become NaN, names none."""
    named = row.get(TEACHER_COLUMN)
    return None if named is None or named == "" or named != named else str(named)
