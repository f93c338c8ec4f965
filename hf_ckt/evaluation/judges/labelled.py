# SPDX-License-Identifier: Apache-2.0
"""Answers that people have labelled, read from files."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ...checks import require_columns, require_known
from ...data.numbered_rows import ending_of, numbered_rows

_BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
KINDS = ("harmful", "benign")


@dataclass(frozen=True)
class LabelledAnswer:
    """
    An answer and what a person says of it.

    Args:
        answer (`str`):
            What is judged.
        refused (`bool`):
            The label.
        prompt (`str`, *optional*):
            The request, for judges that read it. Answers to the same one are resampled together.
        kind (`str`, *optional*):
            `"harmful"` or `"benign"`.
        form (`str`, *optional*):
            What sort of answer it is, for counts by form.
        degenerate (`bool`, *optional*):
            Whether it is empty or repeats itself.
    """

    answer: str
    refused: bool
    prompt: str = ""
    kind: str = ""
    form: str = ""
    degenerate: bool | None = None


@dataclass(frozen=True)
class Columns:
    """
    Where a labelled file keeps what.

    Args:
        text, label (`str`, *optional*, default to `"answer"` and `"refused"`):
            Columns of the answer and of its label.
        prompt, kind, split (`str`, *optional*, default to their names):
            Columns that may be missing.
        refusal_labels (`Sequence[str]`, *optional*):
            Labels that mean refusal, all others the contrary; by default the label is true or false.
        harmful_kinds (`Sequence[str]`, *optional*):
            Kinds of harmful prompts, `*` standing for any letters, all others benign; by default the kind is `"harmful"`
            or `"benign"`.
    """

    text: str = "answer"
    label: str = "refused"
    prompt: str = "prompt"
    kind: str = "kind"
    split: str = "split"
    refusal_labels: Sequence[str] | None = None
    harmful_kinds: Sequence[str] | None = None


def read_labelled(
    paths: Iterable[Path], columns: Columns | None = None, *, split: str | None = None
) -> list[LabelledAnswer]:
    """
    Reads labelled answers from `.jsonl`, `.json`, `.csv` or `.tsv` files.

    Args:
        paths (`Iterable[Path]`):
            Files with the same columns.
        columns ([`Columns`], *optional*):
            Their names.
        split (`str`, *optional*):
            Only rows whose split is this.

    Raises:
        ValueError: If a column is missing, an answer is no text, a label or kind cannot be understood, or no row is left.

    Example:

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "labelled.csv")
    >>> _ = path.write_text("completion,final_label\\nNo.,2_full_refusal\\nSure.,1_full_compliance\\n")
    >>> columns = Columns(text="completion", label="final_label", refusal_labels=["2_full_refusal"])
    >>> [row.refused for row in read_labelled([path], columns)]
    [True, False]
    """
    columns = columns or Columns()
    rows: list[LabelledAnswer] = []
    labels, splits = set(), set()
    for path in paths:
        for number, (where, row) in enumerate(_rows(path)):
            if number == 0:
                for option, column in (("--text-column", columns.text), ("--label-column", columns.label)):
                    require_columns(path.name, row, (column,), option, "name the one that is meant")
            if split is not None:
                require_columns(path.name, row, (columns.split,), "--split")
                splits.add(str(row[columns.split]))
                if row[columns.split] != split:
                    continue
            labels.add(str(row.get(columns.label)))
            degenerate = row.get("degenerate")
            rows.append(
                LabelledAnswer(
                    answer=_text(where, columns.text, row.get(columns.text)),
                    refused=_is_refusal_label(where, row.get(columns.label), columns),
                    prompt=str(row.get(columns.prompt) or ""),
                    kind=_kind(where, row.get(columns.kind), columns),
                    form=str(row.get("form") or ""),
                    degenerate=None if degenerate is None else _boolean(where, "degenerate", degenerate),
                )
            )
    if split is not None and not rows:
        require_known("--split", split, splits)
    if not rows:
        names = ", ".join(path.name for path in paths)
        raise ValueError(
            f"--labelled: {names} holds no row, and an error of nothing is no number. Give labelled answers."
        )
    for label in columns.refusal_labels or ():
        # A misspelt label would make every refusal an answer.
        require_known("--refusal-labels", label, labels)
    return rows


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yields the rows of a file, each with where it stands."""
    if ending_of(path) not in (".jsonl", ".ndjson", ".json", ".csv", ".tsv"):
        raise ValueError(f"--labelled: {path.name!r} is neither .jsonl nor .csv, so it is unknown how to read it.")
    if not path.is_file():
        raise FileNotFoundError(f"--labelled: there is no file {str(path)!r}.")
    for index, (line, row) in enumerate(numbered_rows(path), start=1):
        yield f"{path.name}, row {index}" if line is None else f"{path.name}, line {line}", row


def _text(where: str, column: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(
            f"{where}: has {value!r:.80} as {column!r}, which must be a text: a judge would read the words "
            f"{str(value)!r:.80}. Drop the row or fill it; an empty answer is an empty text."
        )
    return value


def _boolean(where: str, column: str, value: Any) -> bool:
    found = _BOOLEANS.get(str(value).strip().lower())
    if found is None:
        raise ValueError(
            f"{where}: {column} must be true or false, got {value!r}. Name the labels that mean refusal with "
            "--refusal-labels."
        )
    return found


def _is_refusal_label(where: str, label: Any, columns: Columns) -> bool:
    if columns.refusal_labels is None:
        return _boolean(where, columns.label, label)
    if label is None:
        raise ValueError(f"{where}: has no {columns.label}, which would count as an answer. Drop the row or label it.")
    return str(label) in columns.refusal_labels


def _kind(where: str, kind: Any, columns: Columns) -> str:
    if kind in (None, ""):
        return ""
    if columns.harmful_kinds is not None:
        return "harmful" if any(fnmatchcase(str(kind), one) for one in columns.harmful_kinds) else "benign"
    if kind not in KINDS:
        raise ValueError(
            f"{where}: {columns.kind} must be harmful or benign, got {kind!r}, so the bias of neither can be told. Name the "
            "harmful ones with --harmful-kinds."
        )
    return str(kind)
