# SPDX-License-Identifier: Apache-2.0
"""From what was measured to rows with verdicts, and from those to the scores of a results file."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..checkpoints import replace_file
from .judges import Judge, Verdict
from .measuring.measure import Measured
from .measuring.models import EvaluatedModel
from .measuring.suites import Questions
from .measuring.utility import LETTERS, choice_prompt, last_number
from .scoring.alignment import alignment_scores
from .scoring.intervals import resampled_means
from .scoring.refusal_margin import refusal_margin_scores
from .scoring.robustness import noise_scores
from .scoring.safety import SAFETY_SUITES, categories, differences, safety_scores
from .scoring.scores import Score, bootstrap_score, rate_score

COLUMNS = (
    *("model", "suite", "set", "prompt_id", "kind", "category", "template", "corruption", "severity", "seed"),
    *("prompt", "answer", "reasoning", "refused", "degenerate", "confidence", "token_consistency", "correct"),
)


def completion_rows(
    name: str,
    asked: Questions,
    measured: Measured,
    judge: Judge,
    benign_judge: Judge,
    judged: Callable[[Judge, list[tuple[str, str]]], list[Verdict]] | None = None,
) -> list[dict[str, Any]]:
    """
    Returns one model's answers with their verdicts, a row each, with the keys [`COLUMNS`].

    Args:
        name (`str`):
            The model's name in the results.
        asked ([`Questions`]), measured ([`Measured`]):
            What was asked and answered.
        judge, benign_judge ([`Judge`]):
            Of harmful and of benign prompts. The judge reads the request itself, without the template around it and
            without noise.
        judged (`Callable`, *optional*):
            Gives verdicts in place of the judge's own method, to keep those that took long.
    """
    judged = judged or (lambda judge, pairs: judge.verdicts(*zip(*pairs, strict=True)))
    rows = []
    for kind, by in (("harmful", judge), ("benign", benign_judge)):
        mine = [row for row in asked.rows if row["kind"] == kind]
        if not mine:
            continue
        pairs = [(row["request"], measured.answers[row["prompt"]].text) for row in mine]
        unique = sorted(set(pairs))
        verdicts = dict(zip(unique, judged(by, unique), strict=True))
        for row, pair in zip(mine, pairs, strict=True):
            verdict = verdicts[pair]
            consistency = measured.consistency.get((row["request"], row["prompt"])) if row["corruption"] else None
            rows.append(
                {
                    **row,
                    "model": name,
                    "answer": pair[1],
                    "reasoning": measured.answers[row["prompt"]].reasoning,
                    "refused": verdict.refused,
                    "degenerate": verdict.degenerate,
                    "confidence": verdict.confidence,
                    "token_consistency": consistency,
                    "correct": None,
                }
            )
    rows += _utility_rows(name, asked, measured)
    return [{column: row[column] for column in COLUMNS} for row in rows]


def _utility_rows(name: str, asked: Questions, measured: Measured) -> list[dict[str, Any]]:
    empty = {"model": name, "suite": "utility", "kind": "question", "template": "", "corruption": "", "severity": 0.0}
    empty |= {"seed": 0} | dict.fromkeys(("reasoning", "refused", "degenerate", "confidence", "token_consistency"))
    rows = []
    for question, chosen in zip(asked.choices, measured.chosen, strict=True):
        found = {"prompt": choice_prompt(question), "answer": LETTERS[chosen], "correct": chosen == question.answer}
        rows.append(empty | {"set": "multiple_choice", "prompt_id": question.id, "category": question.subject} | found)
    for problem in asked.problems:
        answer = measured.solutions[problem.question]
        found = {"prompt": problem.question, "answer": answer.text, "reasoning": answer.reasoning}
        found["correct"] = last_number(answer.text) == last_number(problem.answer)
        rows.append(empty | {"set": "word_problems", "prompt_id": problem.id, "category": ""} | found)
    return rows


def model_results(
    entry: EvaluatedModel,
    rows: Sequence[Mapping[str, Any]],
    base_rows: Sequence[Mapping[str, Any]],
    measured: Measured,
    baseline_rows: Sequence[Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """
    Returns a model's part of the results file.

    Args:
        entry ([`EvaluatedModel`]):
            The model.
        rows, base_rows (`Sequence[Mapping]`):
            Its completion rows and those of the base; the same object for the base itself.
        measured ([`Measured`]):
            For what is no completion: margins and agreement.
        baseline_rows (`Sequence[Mapping]`, *optional*):
            Of the model that the corruption error is relative to.
    """
    results: dict[str, Any] = {"title": entry.name, "scores": {}}
    scores: dict[str, Score] = results["scores"]
    safety = [row for row in rows if row["suite"] in SAFETY_SUITES]
    if safety:
        scores |= safety_scores(safety)
        results["by_category"] = categories(safety)
        if rows is not base_rows:
            others = [row for row in base_rows if row["suite"] in SAFETY_SUITES]
            results["against"] = {"base": differences(safety, others)}
    if measured.margins:
        kinds = {row["prompt"]: row["kind"] for row in rows if row["suite"] in ("direct", "overrefusal")}
        scores |= refusal_margin_scores([measured.margins[prompt] for prompt in kinds], list(kinds.values()))
    noise = [row for row in rows if row["suite"] == "noise"]
    if noise:
        baseline = None if baseline_rows is None else [row for row in baseline_rows if row["suite"] == "noise"]
        found, results["noise"] = noise_scores(noise, baseline)
        scores |= found
    if measured.alignment:
        found, results["calibration"] = alignment_scores(measured.alignment)
        scores |= found
    for name in ("multiple_choice", "word_problems"):
        scores |= _accuracy(name, rows, None if rows is base_rows else base_rows)
    return results


def _accuracy(
    name: str, rows: Sequence[Mapping[str, Any]], base_rows: Sequence[Mapping[str, Any]] | None
) -> dict[str, Score]:
    """Share answered right; and that share divided by the base's, both on the same resampled questions."""
    import numpy as np

    correct = _correct(name, rows)
    if not correct:
        return {}
    scores = {name: rate_score(list(correct.values()))}
    if base_rows is not None:
        base = _correct(name, base_rows)
        sums = np.array([[correct[question], base[question]] for question in sorted(correct)], float)
        drawn = resampled_means(sums, np.ones_like(sums))
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = np.where(drawn[:, 1] > 0, drawn[:, 0] / drawn[:, 1], np.nan)
        whole = sums[:, 0].sum() / sums[:, 1].sum() if sums[:, 1].any() else float("nan")
        scores[f"{name}_relative"] = bootstrap_score(whole, ratios, len(sums))
    return scores


def _correct(name: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, bool]:
    mine = (row for row in rows if row["suite"] == "utility" and row["set"] == name)
    return {row["prompt_id"]: bool(row["correct"]) for row in mine}


def write_completions(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes completion rows as Parquet, with the columns [`COLUMNS`], aside and then in place."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds: dict[str, Any] = {"severity": pa.float64(), "seed": pa.int64(), "confidence": pa.float64()}
    kinds |= {
        "refused": pa.bool_(),
        "degenerate": pa.bool_(),
        "correct": pa.bool_(),
        "token_consistency": pa.float64(),
    }
    schema = pa.schema([(column, kinds.get(column, pa.string())) for column in COLUMNS])
    table = pa.Table.from_pylist([dict(row) for row in rows], schema=schema)
    replace_file(path, lambda aside: pq.write_table(table, aside))
