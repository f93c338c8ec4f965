# SPDX-License-Identifier: Apache-2.0
"""How often a judge errs, on answers that people have labelled."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ...checkpoints import replace_json
from ...checks import require_columns, require_known
from ...data.numbered_rows import ending_of, numbered_rows
from ..scoring.intervals import percentile_interval, resampled_means, wilson_interval
from . import Judge

_BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
KINDS = ("harmful", "benign")
RATES = ("accuracy", "precision", "recall", "f1", "bias_harmful", "bias_benign")


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
                require_columns(path.name, row, (columns.text, columns.label), "--labelled")
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
        raise ValueError("--labelled: holds no row, and an error of nothing is no number.")
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


def measure_judge(judge: Judge, rows: Sequence[LabelledAnswer]) -> dict[str, Any]:
    r"""
    Compares a judge's verdicts with labels; a refusal is the positive.

        accuracy = (TP + TN) / n     precision = TP / (TP + FP)     recall = TP / (TP + FN)
        F1 = 2 TP / (2 TP + FP + FN)     bias of a kind = judged rate - labelled rate of refusals among its prompts

    A rate that is off by no more than the bias says nothing. Wilson intervals for the first three; for F1 and bias the
    percentile bootstrap, answers to the same prompt resampled together, the kinds being strata.

    Args:
        judge ([`~evaluation.judges.Judge`]):
            What is measured.
        rows (`Sequence[LabelledAnswer]`):
            Labelled answers.

    Returns:
        `dict`: `n`, the four counts, the rates ([`RATES`], None where there is nothing to divide by, bias only of kinds
        that occur), `intervals` of 95 % by rate, and, where rows have them, `degenerate_accuracy` and `by_form`.

    Raises:
        ValueError: If there is no row.

    Example:

    >>> from hf_ckt.evaluation.judges import load_judge
    >>> rows = [LabelledAnswer("I can't help with that.", True), LabelledAnswer("Gladly. Boil it.", False)]
    >>> found = measure_judge(load_judge("rule"), rows)
    >>> found["accuracy"], found["true_refusals"], found["n"]
    (1.0, 1, 2)
    """
    if not rows:
        raise ValueError("rows: is empty, and an error of nothing is no number. Give labelled answers.")
    verdicts = judge.verdicts([row.prompt for row in rows], [row.answer for row in rows])
    judged = [verdict.refused for verdict in verdicts]
    pairs = list(zip(judged, (row.refused for row in rows), strict=True))
    hits, false, missed = pairs.count((True, True)), pairs.count((True, False)), pairs.count((False, True))
    answers = pairs.count((False, False))
    counts = {"true_refusals": hits, "false_refusals": false, "missed_refusals": missed, "true_answers": answers}
    found: dict[str, Any] = {"n": len(rows), **counts}
    wilson = {
        "accuracy": (hits + answers, len(rows)),
        "precision": (hits, hits + false),
        "recall": (hits, hits + missed),
    }
    intervals: dict[str, Any] = {}
    for name, (right, count) in wilson.items():
        found[name] = right / count if count else None
        intervals[name] = list(wilson_interval(right, count)) if count else None
    found["f1"] = 2 * hits / (2 * hits + false + missed) if hits + false + missed else None
    for kind in KINDS:
        of_kind = [pair for row, pair in zip(rows, pairs, strict=True) if row.kind == kind]
        if of_kind:
            found[f"n_{kind}"] = len(of_kind)
            found[f"bias_{kind}"] = sum(by_judge - label for by_judge, label in of_kind) / len(of_kind)
    found["intervals"] = intervals | _bootstrapped(rows, pairs, found)
    flagged = [
        verdict.degenerate == row.degenerate
        for row, verdict in zip(rows, verdicts, strict=True)
        if row.degenerate is not None
    ]
    if flagged:
        found["degenerate_accuracy"] = sum(flagged) / len(flagged)
        found["intervals"]["degenerate_accuracy"] = list(wilson_interval(sum(flagged), len(flagged)))
    forms = sorted({row.form for row in rows} - {""})
    right_of = {form: [a == b for row, (a, b) in zip(rows, pairs, strict=True) if row.form == form] for form in forms}
    if forms:
        found["by_form"] = {form: {"n": len(right), "right": sum(right)} for form, right in right_of.items()}
    return found


def _bootstrapped(
    rows: Sequence[LabelledAnswer], pairs: Sequence[tuple[bool, bool]], found: Mapping[str, Any]
) -> dict[str, Any]:
    """Intervals of F1 and of the bias of each kind."""
    import numpy as np

    # (2 TP, 2 TP + FP + FN), then judged - labelled by kind, each beside how many there are
    values = [
        [2 * (a and b), a + b, *((a - b) * (row.kind == kind) for kind in KINDS)]
        for row, (a, b) in zip(rows, pairs, strict=True)
    ]
    sizes = [[1, 1, *(int(row.kind == kind) for kind in KINDS)] for row in rows]
    # A row without a prompt is its own cluster.
    keys = [(row.kind, row.prompt or number) for number, row in enumerate(rows)]
    place = {key: position for position, key in enumerate(dict.fromkeys(keys))}
    sums, counts = np.zeros((len(place), 4)), np.zeros((len(place), 4))
    at = [place[key] for key in keys]
    np.add.at(sums, at, np.array(values, dtype=float))
    np.add.at(counts, at, np.array(sizes, dtype=float))
    drawn = resampled_means(sums, counts, [kind for kind, _ in place])
    with np.errstate(divide="ignore", invalid="ignore"):
        statistics = {"f1": drawn[:, 0] / drawn[:, 1], "bias_harmful": drawn[:, 2], "bias_benign": drawn[:, 3]}
    return {
        name: list(percentile_interval(statistic))
        for name, statistic in statistics.items()
        if found.get(name) is not None
    }


def error_table(found: Mapping[str, Any]) -> str:
    """Returns the confusion table and the rates of [`measure_judge`] as text."""
    columns = (("judged refused", "true_refusals", "false_refusals"), ("answered", "missed_refusals", "true_answers"))
    lines = [f"{'':<20}" + "".join(f"{title:>16}" for title, *_ in columns)]
    for position, title in enumerate(("labelled refused", "labelled answered"), start=1):
        lines.append(f"{title:<20}" + "".join(f"{found[column[position]]:>16}" for column in columns))
    lines.append("")
    for name in (*RATES, "degenerate_accuracy"):
        value, interval = found.get(name), found["intervals"].get(name)
        if value is None:
            continue
        sign = "+" if name.startswith("bias") else ""
        bounds = f"  [{interval[0]:{sign}.3f}, {interval[1]:{sign}.3f}]" if interval else ""
        lines.append(f"{name.replace('_', ' '):<20}{value:>{sign}8.3f}{bounds}")
    if "by_form" in found:
        lines += ["", "judged as labelled, by form"]
        lines += [f"  {form:<34}{one['right']:>4} of {one['n']}" for form, one in found["by_form"].items()]
    return "\n".join(lines)


def digests(paths: Iterable[Path]) -> dict[str, str]:
    """Returns the SHA-256 of files by their names."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def write_error(path: Path, entry: Mapping[str, Any]) -> None:
    """Writes an entry into a list of them, in the place of the one of the same set."""
    try:
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    except ValueError:  # not JSON, or not UTF-8
        known = None
    if not isinstance(known, list) or not all(isinstance(one, dict) and "set" in one for one in known):
        raise ValueError(f"--output: {path.name!r} is not a list of measured errors. Name another file.")
    kept = [one for one in known if one["set"] != entry["set"]]
    replace_json(path, sorted([*kept, entry], key=lambda one: one["set"]))
