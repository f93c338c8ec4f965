# SPDX-License-Identifier: Apache-2.0
"""The files of an evaluation, read and checked."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..measuring.store import file_digest
from ..same_models import require_same_models

FORMAT = 2
_KEYS = (
    *("tier", "suites", "left_out", "settings", "judge", "generation", "sets", "seeds", "versions", "device"),
    "models",
)
_SCORE_KEYS = {"value", "low", "high", "n"}
# Part of a report -> (what it is called, the suites that it needs).
PARTS = {
    "safety": ("Safety and over-refusal", ("direct", "overrefusal")),
    "odds": ("The AUROC of the refusal log-odds", ("direct", "overrefusal")),
    "balance": ("Safety against helpfulness", ("direct", "overrefusal")),
    "attack_success": ("Attack success by category", ("direct",)),
    "overrefusal": ("Over-refusal by category", ("overrefusal",)),
    "noise": ("Robustness to noise", ("noise",)),
    "kd": ("Agreement with a teacher", ("kd",)),
    "utility": ("Utility", ("utility",)),
}


@dataclass(frozen=True)
class Findings:
    """
    What the files of one evaluation hold.

    Args:
        results (`dict`):
            `results.json`.
        rows (`list[dict]`, *optional*):
            `completions.parquet`; None where there is no such file.
        lm_eval (`dict`, *optional*):
            `lm_eval.json`; None where there is no such file.
    """

    results: dict[str, Any]
    rows: list[dict[str, Any]] | None = None
    lm_eval: dict[str, Any] | None = None


def read_findings(folder: Path, *, rejudging: bool = False) -> Findings:
    """
    Reads what `hf-ckt evaluate` and `hf-ckt lm-eval` left in a folder.

    Args:
        folder (`Path`):
            With `results.json`.
        rejudging (`bool`, *optional*, defaults to `False`):
            Whether the answers are judged anew, and may hold verdicts of a rejudging that was stopped.

    Raises:
        ValueError: If the folder holds no evaluation, or a file cannot be read, is of another format, or does not belong to
            the others.
    """
    if not (folder / "results.json").is_file():
        raise ValueError(
            f"{folder}: holds no results.json, so there is nothing to report. Give the folder that "
            "`hf-ckt evaluate --output` wrote."
        )
    results = _json(folder / "results.json")
    _require_results(results)
    answers = folder / "completions.parquet"
    rows = _rows(answers) if answers.exists() else None
    digest = None if rows is None else file_digest(answers)
    known = results.get("completions")
    if digest is not None and known not in (None, digest) and results.get("rejudging") == digest:
        if not rejudging:
            raise ValueError(
                "completions.parquet: `hf-ckt rejudge` was stopped before it wrote results.json, so verdicts of one judge "
                "would stand beside scores of another. Run it again."
            )
    elif digest is not None and known not in (None, digest):
        raise ValueError(
            "completions.parquet: is not the file that results.json was written with, so answers would stand beside scores "
            "of others. Evaluate again: finished answers are kept, and both files are written anew."
        )
    strangers = sorted({str(row["model"]) for row in rows or ()} - results["models"].keys())
    if strangers:
        raise ValueError(
            f"completions.parquet: holds answers of {', '.join(map(repr, strangers))}, which results.json does not know, so "
            "the two are of different runs and answers would stand beside scores of others. Evaluate again."
        )
    lm_eval = _json(folder / "lm_eval.json") if (folder / "lm_eval.json").exists() else None
    if lm_eval is not None and not isinstance(lm_eval.get("tasks"), Mapping):
        raise ValueError(
            "lm_eval.json: has no tasks, so there is nothing to show. Write it again with `hf-ckt lm-eval`."
        )
    if lm_eval is not None and isinstance(lm_eval.get("models"), Mapping):
        require_same_models("lm_eval.json", lm_eval["models"], "results.json", results["models"])
    return Findings(results, rows, lm_eval)


def not_measured(results: Mapping[str, Any], part: str) -> str:
    """
    Returns the sentence that stands where a part of the report is missing.

    Example:

    >>> not_measured({"left_out": {"kd": "there is no adapter"}}, "kd")
    'Agreement with a teacher was not measured: there is no adapter.'
    """
    title, suites = PARTS[part]
    reasons = [str(results["left_out"][suite]).rstrip(".") for suite in suites if suite in results["left_out"]]
    if part == "kd" and any("base_agreement" in model["scores"] for model in results.get("models", {}).values()):
        reasons.append("no teacher was named, and the scores hold agreement with the base in its place")
    return f"{title} was not measured: {reasons[0] if reasons else 'the results hold nothing of it'}."


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # of the text's encoding too
        raise ValueError(
            f"{path.name}: is no JSON ({error}), so nothing of it can be trusted. Write it again with the command that made "
            "it."
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path.name}: must hold a JSON object, got {type(content).__name__}. It is another file.")
    return content


def _require_results(results: Mapping[str, Any]) -> None:
    if results.get("format") != FORMAT:
        raise ValueError(
            f"results.json: format must be {FORMAT}, got {results.get('format')!r}. Numbers of another format would be read "
            "as what they are not. Evaluate again, or use the version of hf_ckt that wrote it."
        )
    missing = [key for key in _KEYS if key not in results]
    if missing or not results["models"]:
        raise ValueError(
            f"results.json: lacks {', '.join(missing) or 'models'}, so a reader could not tell what was measured. Evaluate "
            "again."
        )
    for name, model in results["models"].items():
        _require_scores(name, model)
        if "scores" not in model or "title" not in model:
            raise ValueError(f"results.json: the model {name!r} has no title or no scores. Evaluate again.")
    for name, pooled in (results.get("pooled") or {}).items():
        _require_scores(name, pooled)
        if "scores" not in pooled or not pooled.get("runs"):
            raise ValueError(
                f"results.json: the pooled method {name!r} has no scores or does not say of which runs, so a reader could "
                "not tell how many there were. Evaluate again."
            )


def _require_scores(name: str, model: Mapping[str, Any]) -> None:
    for score, found in model.get("scores", {}).items():
        if not (isinstance(found, Mapping) and found.keys() >= _SCORE_KEYS):
            raise ValueError(
                f"results.json: the score {score!r} of {name!r} must have {', '.join(sorted(_SCORE_KEYS))}, got {found!r}. "
                "A number without its interval and n is no result. Evaluate again."
            )


def _rows(path: Path) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(path).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"{path.name}: cannot be read as Parquet ({error}), so no answer can be shown. Evaluate again: finished answers "
            "are kept, and only the file is written anew."
        ) from error
    needed = {"model", "suite", "set", "prompt_id", "kind", "category", "template", "corruption", "severity", "seed"}
    needed |= {"prompt", "answer", "refused", "degenerate", "correct"}
    missing = sorted(needed - rows[0].keys()) if rows else []
    if missing:
        raise ValueError(f"{path.name}: lacks the columns {', '.join(missing)}. It is another file; evaluate again.")
    for row in rows:
        for key, value in row.items():
            if isinstance(value, float) and not math.isfinite(value):
                row[key] = None
    return rows
