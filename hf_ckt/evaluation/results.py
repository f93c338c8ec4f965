# SPDX-License-Identifier: Apache-2.0
"""From what was measured to rows with verdicts, and from those to the scores of a results file."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

from ..checkpoints import replace_file
from .judging import Judging
from .measuring.measure import Measured
from .measuring.suites import Questions
from .measuring.utility import choice_row, last_number, passage_row
from .scoring.alignment import alignment_scores
from .scoring.compared import score_models
from .scoring.pooled import pooled_scores
from .scoring.separation import PROBE_COLUMN

Rows: TypeAlias = Sequence[Mapping[str, Any]]
COLUMNS = (
    *("model", "suite", "set", "prompt_id", "kind", "category", "template", "corruption", "severity", "seed"),
    *("request", "prompt", "answer", "reasoning", "refused", "degenerate", "confidence", "log_odds", "margin"),
    *("token_consistency", "correct", "options", "nats", "tokens"),
)
_EMPTY: dict[str, Any] = dict.fromkeys(COLUMNS)


def completion_rows(
    name: str,
    asked: Questions,
    measured: Measured,
    judging: Judging,
    probe_log_odds: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """
    Returns one model's answers with their verdicts, a row each, with the keys [`COLUMNS`].

    Args:
        name (`str`):
            The model's name in the results.
        asked ([`Questions`]), measured ([`Measured`]):
            What was asked and answered.
        judging ([`Judging`]):
            Who judges.
        probe_log_odds (`Mapping[str, float]`, *optional*):
            What a probe makes of each prompt by this model's states: one more key, `probe_log_odds`.
    """
    rows, columns = [], COLUMNS if probe_log_odds is None else (*COLUMNS, PROBE_COLUMN)
    for row in asked.rows:
        answer, leaning = measured.answers[row["prompt"]], measured.leanings.get(row["prompt"])
        consistency = measured.consistency.get((row["request"], row["prompt"])) if row["corruption"] else None
        found = {"answer": answer.text, "reasoning": answer.reasoning, "token_consistency": consistency}
        if leaning is not None:
            found |= {"log_odds": leaning.log_odds, "margin": leaning.margin}
        if probe_log_odds is not None:
            found[PROBE_COLUMN] = probe_log_odds[row["prompt"]]
        rows.append(_EMPTY | row | {"model": name} | found)
    rows = judging.judged(rows) + _utility_rows(name, asked, measured)
    return [{column: row.get(column) for column in columns} for row in rows]


def _utility_rows(name: str, asked: Questions, measured: Measured) -> list[dict[str, Any]]:
    empty = _EMPTY | {"model": name, "suite": "utility", "kind": "question"}
    empty |= {"template": "", "corruption": "", "severity": 0.0, "seed": 0, "category": ""}
    rows = []
    for question, chosen in zip(asked.choices, measured.chosen, strict=True):
        rows.append(empty | choice_row(question, chosen))
    for problem in asked.problems:
        answer = measured.solutions[problem.question]
        found: dict[str, Any] = {"prompt": problem.question, "answer": answer.text, "reasoning": answer.reasoning}
        found["correct"] = last_number(answer.text) == last_number(problem.answer)
        rows.append(empty | {"set": "word_problems", "prompt_id": problem.id} | found)
    for passage, told in zip(asked.passages, measured.passages, strict=True):
        rows.append(empty | passage_row(passage, told))
    return rows


def scored(
    rows: Mapping[str, Rows],
    judging: Judging,
    pools: Mapping[str, Sequence[str]],
    records: Mapping[str, Rows] | None = None,
    *,
    named: bool = False,
) -> dict[str, Any]:
    """
    Returns the numbers of a results file: each model's part (`models`), and the methods' (`pooled`).

    Args:
        rows (`Mapping[str, Sequence[Mapping]]`):
            Completion rows by model, the base's first.
        judging ([`Judging`]):
            Who judged them, for their measured error.
        pools (`Mapping[str, Sequence[str]]`):
            Methods, each with the models that are its runs.
        records (`Mapping[str, Sequence[Mapping]]`, *optional*):
            Of agreement with a teacher, by model.
        named (`bool`, *optional*, defaults to `False`):
            Whether the teacher was named: it is the base otherwise.
    """
    found = score_models(rows, judging.harmful.error, judging.benign.error)
    records = {name: mine for name, mine in (records or {}).items() if mine}
    if records:
        for name, agreement in alignment_scores(records, named=named).items():
            found[name].add(agreement)
    models = {
        name: {"title": name, "scores": {}, "against": {}, **_filled(asdict(one))} for name, one in found.items()
    }
    pooled = pooled_scores(rows, pools, records=records, named=named) if pools else {}
    return {"models": models, "pooled": pooled}


def _filled(part: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in part.items() if value}


def write_completions(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """
    Writes completion rows as Parquet, with the columns [`COLUMNS`] and, where a probe was measured, `probe_log_odds`, aside and
    then in place.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds: dict[str, Any] = dict.fromkeys(("seed", "options", "tokens"), pa.int64())
    kinds |= dict.fromkeys(("refused", "degenerate", "correct"), pa.bool_())
    numbers = ("severity", "confidence", "log_odds", "margin", "token_consistency", "nats", PROBE_COLUMN)
    kinds |= dict.fromkeys(numbers, pa.float64())
    columns = (*COLUMNS, PROBE_COLUMN) if any(PROBE_COLUMN in row for row in rows) else COLUMNS
    schema = pa.schema([(column, kinds.get(column, pa.string())) for column in columns])
    table = pa.Table.from_pylist([dict(row) for row in rows], schema=schema)
    replace_file(path, lambda aside: pq.write_table(table, aside))
