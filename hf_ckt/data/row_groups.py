# SPDX-License-Identifier: Apache-2.0
"""Which rows of a dataset belong together, such as a harmful prompt and its benign twins."""

from typing import Any

from datasets import Dataset

from ..checks import require_columns

ID_COLUMN = "id"
_OPTION = "group_column"


def require_groups(dataset: Any, column: str, name: str) -> None:
    """
    Raises ValueError where rows of a dataset cannot be grouped by a column.

    Args:
        dataset (`Any`):
            What is trained on.
        column (`str`):
            Name of the column.
        name (`str`):
            Name of the dataset in messages.
    """
    if not isinstance(dataset, Dataset):
        raise ValueError(
            f"{_OPTION}: the {name} dataset streams, so it is not known where a group's other rows are and they would come in "
            f"batches apart. Load it in full, or set {_OPTION}=None."
        )
    require_columns(name, dataset.column_names, [column], _OPTION, f"set {_OPTION}=None")


def find_groups(dataset: Dataset, column: str, name: str = "train") -> list[list[int]]:
    """
    Returns the numbers of the rows in each group.

    Rows with the same value in the column are a group, and so is the row without a value whose `id` is that value, which
    comes first in it. All others stand alone.

    Args:
        dataset (`datasets.Dataset`):
            With the column, and `id` where rows are named by it.
        column (`str`):
            Name of the column.
        name (`str`, *optional*, defaults to `"train"`):
            Name of the dataset in messages.

    Raises:
        ValueError: If there is no such column, or the dataset streams.

    Example:

    >>> rows = {"id": ["a", "b", "c", "d"], "twin": [None, "a", None, "a"]}
    >>> find_groups(Dataset.from_dict(rows), "twin")
    [[0, 1, 3], [2]]
    """
    require_groups(dataset, column, name)
    table = dataset.with_format(None)
    values = [cell_key(value) for value in table[column][:]]
    named = {value for value in values if value is not None}
    ids = (
        [cell_key(value) for value in table[ID_COLUMN][:]]
        if ID_COLUMN in dataset.column_names
        else [None] * len(values)
    )
    groups: dict[Any, list[int]] = {}
    first: dict[Any, int] = {}
    for row, (value, own) in enumerate(zip(values, ids, strict=True)):
        leads = value is None and own in named
        key: Any = own if leads else value if value is not None else row
        group = groups.setdefault(key, [])
        if leads:
            group.insert(first.setdefault(key, 0), row)
            first[key] += 1
        else:
            group.append(row)
    return list(groups.values())


def missing_leaders(dataset: Dataset, column: str) -> list[str]:
    """
    Returns the values of a column that are the `id` of no row without one, so that no row leads these groups; none where
    that is so of all values, which then are names of groups and no ids.

    Args:
        dataset (`datasets.Dataset`), column (`str`):
            As in [`find_groups`].

    Example:

    >>> missing_leaders(Dataset.from_dict({"id": ["a", "b", "c"], "twin": [None, "a", "A"]}), "twin")
    ['A']
    """
    table = dataset.with_format(None)
    values = [cell_key(value) for value in table[column][:]]
    ids = (
        [cell_key(value) for value in table[ID_COLUMN][:]]
        if ID_COLUMN in dataset.column_names
        else [None] * len(values)
    )
    leading = {own for own, value in zip(ids, values, strict=True) if value is None}
    named = [value for value in dict.fromkeys(values) if value is not None]
    alone = [value for value in named if value not in leading]
    return alone if len(alone) < len(named) else []


def cell_key(value: Any) -> str | None:
    """
    Returns what a cell says, alike whether it is kept as text or number; None of an empty one, which may have become NaN.

    Example:

    >>> cell_key(7.0), cell_key("7"), cell_key(float("nan")), cell_key("")
    ('7', '7', None, None)
    """
    if value is None or value == "" or value != value:
        return None
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
