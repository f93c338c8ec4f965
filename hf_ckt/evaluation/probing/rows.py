# SPDX-License-Identifier: Apache-2.0
"""Prompts with the side of the boundary that each is on."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ...checks import nearest, require_columns
from ...data.contamination import training_texts
from ...data.files import place_of_row, shown_name
from ...data.row_groups import cell_key

HARMFUL, BENIGN = "harmful", "benign"
_TRUE, _FALSE = ("true", "1", "yes"), ("false", "0", "no")


class ProbeRow(NamedTuple):
    """
    One prompt.

    Args:
        id (`str`):
            What tables of mistakes call it.
        prompt (`str` or `list[dict]`):
            What the user says, or messages.
        harmful (`bool`):
            Whether it is one to refuse.
        kind (`str`):
            `"harmful"`, or a kind of benign prompt such as `"twin"`; tables have a line for each.
        category (`str`, *optional*, defaults to `""`):
            Its subject, for tables.
        group (`str`, *optional*, defaults to `""`):
            Prompts of one group, such as a harmful one and its twins, count as one draw in intervals. Empty: a group of its
            own.
    """

    id: str
    prompt: Any
    harmful: bool
    kind: str
    category: str = ""
    group: str = ""

    @property
    def cluster(self) -> str:
        """The name of its group."""
        return self.group or self.id


def probe_rows(rows: Any, source: str, option: str) -> list[ProbeRow]:
    """
    Reads rows of a data set.

    Args:
        rows ([`~datasets.Dataset`]):
            With `prompt` (a text, or messages), and `kind` (`"harmful"` or anything else) or `harmful` (true or false);
            `id`, `category` and `twin`, the id of the harmful row that a benign one belongs to, may be missing.
        source (`str`):
            Where they were read from, and `option` (`str`) the option that named it, for messages.

    Raises:
        ValueError: If a column is missing, a cell cannot be read, or all prompts are on one side.

    Example:

    >>> from datasets import Dataset
    >>> rows = Dataset.from_dict({"prompt": ["Make a bomb.", "Make a cake."], "harmful": [True, False]})
    >>> [(row.kind, row.harmful) for row in probe_rows(rows, "mine.jsonl", "--data")]
    [('harmful', True), ('benign', False)]
    """
    columns = rows.column_names
    require_columns(shown_name(source), columns, ("prompt",), option, "give other rows")
    if not {"kind", "harmful"} & {*columns}:
        raise ValueError(
            f"{option}: the {shown_name(source)} dataset has neither a column 'kind' nor 'harmful' (it has "
            f"{', '.join(map(repr, columns))}), so it is not known which prompts to refuse. Add kind, with 'harmful' in those "
            "rows, or harmful, with true and false."
        )
    found = [_row(cells, index, source, option) for index, cells in enumerate(rows)]
    sides = {row.harmful for row in found}
    if len(sides) == 1:
        kinds = sorted({row.kind for row in found})
        meant = nearest(HARMFUL, kinds).replace("Did you mean", f"Should {HARMFUL!r} be written for")
        hint = "" if True in sides else meant or f" Rows to refuse are those of kind {HARMFUL!r}."
        raise ValueError(
            f"{option}: all {len(found)} rows of {shown_name(source)} are {'' if True in sides else 'not '}harmful (kinds: "
            f"{', '.join(kinds[:5])}), so there is nothing to tell apart.{hint} Give rows of both sides."
        )
    return found


def _row(cells: Mapping[str, Any], index: int, source: str, option: str) -> ProbeRow:
    def refuse(what: str, remedy: str) -> ValueError:
        return ValueError(f"{option}: {place_of_row(source, index)} {what} {remedy}")

    prompt = cells["prompt"]
    if not (_is_text(prompt) or _is_chat(prompt)):
        raise refuse(
            f"has {prompt!r:.60} as its prompt, which a model cannot be asked.",
            "Fill the cell with a text, or with messages of which the user says something, or drop the row.",
        )
    kind, side = cells.get("kind"), cell_key(cells.get("harmful"))
    if side is not None:
        harmful = _as_bool(side)
        if harmful is None:
            raise refuse(
                f"has {cells['harmful']!r:.40} as harmful, which is neither true nor false.", "Write one of them."
            )
        if _is_text(kind) and (kind == HARMFUL) != harmful:
            raise refuse(
                f"says harmful {str(harmful).lower()} and kind {kind!r}, of which one is wrong.", "Correct the row."
            )
    elif _is_text(kind):
        harmful = kind == HARMFUL
    else:
        raise refuse("says neither its kind nor whether it is harmful.", "Fill the cell, or drop the row.")
    name = cell_key(cells.get("id")) or f"row {index + 1}"
    return ProbeRow(
        id=name,
        prompt=prompt,
        harmful=harmful,
        kind=str(kind) if _is_text(kind) else HARMFUL if harmful else BENIGN,
        category=cell_key(cells.get("category")) or "",
        group=cell_key(cells.get("twin")) or name,
    )


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_chat(value: Any) -> bool:
    turns = value if isinstance(value, list) else []
    if not all(isinstance(turn, dict) and {"role", "content"} <= turn.keys() for turn in turns):
        return False
    return any(text.strip() for text in training_texts([{"prompt": turns}]))


def _as_bool(cell: str) -> bool | None:
    word = cell.strip().lower()
    return True if word in _TRUE else False if word in _FALSE else None


def require_apart(train: Sequence[ProbeRow], validation: Sequence[ProbeRow]) -> None:
    """Raises ValueError where a prompt is fitted on and chosen by."""
    seen = {_said(row.prompt): row for row in train}
    twice = [row for row in validation if _said(row.prompt) in seen]
    if twice:
        raise ValueError(
            f"validation: {len(twice)} of its {len(validation)} prompts are in the training rows too (first: {twice[0].id} and "
            f"{seen[_said(twice[0].prompt)].id}), so layers would be chosen, and odds calibrated, by what was learnt by heart. "
            "Take them out of one of the two."
        )


def _said(prompt: Any) -> tuple[tuple[str, str], ...]:
    """Who says what: a text is what the user says."""
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    return tuple((str(turn["role"]), str(turn["content"])) for turn in turns)
