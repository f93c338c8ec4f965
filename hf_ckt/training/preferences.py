# SPDX-License-Identifier: Apache-2.0
"""Preference data for a trainer of completions: the chosen answer is trained on, the rejected one is read beside it."""

from collections.abc import Callable
from typing import Any

from datasets import Dataset, concatenate_datasets

from ..checks import require_columns
from .collator import PREFIX

REJECTED_COLUMNS = (f"{PREFIX}input_ids", f"{PREFIX}labels")
_OPTION = "contrastive_rejected"
ROW = "hf_ckt_row"


def chosen_as_completion(dataset: Any, name: str) -> Any:
    """
    Renames `chosen` to `completion`, in a dataset or a dict of them, and checks the columns.

    Raises:
        ValueError: If a column is missing, or the dataset streams.
    """
    if dataset is None:
        return None
    if isinstance(dataset, dict):
        return type(dataset)({key: chosen_as_completion(value, key) for key, value in dataset.items()})
    if not isinstance(dataset, Dataset):
        raise ValueError(
            f"{_OPTION}: the {name} is a streaming dataset, whose chosen and rejected answers cannot be joined by row. "
            "Load it in full, or switch the option off."
        )
    if "input_ids" in dataset.column_names:
        require_columns(name, dataset.column_names, REJECTED_COLUMNS, _OPTION)
        return dataset
    if "chosen" in dataset.column_names and "completion" not in dataset.column_names:
        dataset = dataset.rename_column("chosen", "completion")
    require_columns(name, dataset.column_names, ("prompt", "completion", "rejected"), _OPTION)
    return dataset


def with_rejected(dataset: Any, prepare: Callable[[Any], Any], name: str) -> Any:
    """
    Prepares (tokenizes, truncates) the chosen and the rejected answers alike and joins them by row.

    Args:
        dataset (`datasets.Dataset`):
            With `prompt`, `completion`, `rejected`; one that is tokenized already is truncated alike.
        prepare (`Callable`):
            The trainer's own preparation of a prompt-completion dataset.
        name (`str`):
            Name of the dataset in messages.
    """
    dataset = chosen_as_completion(dataset, name)
    numbered = dataset.add_column(ROW, list(range(len(dataset))))
    if "input_ids" in dataset.column_names:
        plain = dict(zip(REJECTED_COLUMNS, ("input_ids", "labels"), strict=True))
        chosen = prepare(numbered.remove_columns(list(plain)))
        rejected = prepare(numbered.remove_columns(list(plain.values())).rename_columns(plain))
    else:
        chosen = prepare(numbered.remove_columns("rejected"))
        rejected = prepare(numbered.remove_columns("completion").rename_column("rejected", "completion"))
    # An answer that truncation masked in full was dropped on its side; its pair goes too.
    place = {row: index for index, row in enumerate(rejected[ROW])}
    keep = [index for index, row in enumerate(chosen[ROW]) if row in place]
    chosen = chosen.select(keep)
    rejected = rejected.select([place[row] for row in chosen[ROW]]).select_columns(["input_ids", "labels"])
    rejected = rejected.rename_columns(dict(zip(("input_ids", "labels"), REJECTED_COLUMNS, strict=True)))
    return concatenate_datasets([chosen.remove_columns(ROW), rejected], axis=1)
