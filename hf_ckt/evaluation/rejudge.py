# SPDX-License-Identifier: Apache-2.0
"""Kept answers under another judge, or a newer one: no model answers again."""

import copy
import logging
from pathlib import Path
from typing import Any

from ..checkpoints import replace_json
from .judging import load_judging
from .measuring.store import PieceStore, file_digest, only_writer
from .recorded import OF_JUDGE, judge_warnings
from .report.findings import read_findings
from .results import scored, write_completions

logger = logging.getLogger(__name__)


def rejudge(folder: Path, spec: str = "auto", *, trust_remote_code: bool = False, command: str = "") -> dict[str, Any]:
    """
    Judges the answers of a finished evaluation and writes its scores anew. What no verdict enters stays as it is. Stopped
    at any moment, the same call starts over.

    Args:
        folder (`Path`):
            With `results.json` and `completions.parquet` of `hf-ckt evaluate`.
        spec (`str`, *optional*, defaults to `"auto"`):
            See [`~evaluation.judges.load_judge`].
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Runs Python code that comes with a judge that is a model.
        command (`str`, *optional*):
            Stated in the results.

    Returns:
        `dict`: what `results.json` holds.

    Raises:
        ValueError: If another process writes to the folder, it holds no evaluation with its answers, or these were kept
            without the requests that a judge which is a model may read.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: is no folder, so there are no answers to judge. Give what `--output` named.")
    with only_writer(folder, ".lock", "evaluation"):
        findings = read_findings(folder, rejudging=True)
        if not findings.rows:
            raise ValueError(
                f"{folder}: holds no completions.parquet with answers, so there is nothing to judge. Evaluate again."
            )
        results, before = findings.results, copy.deepcopy(findings.results)
        judged = [row for row in findings.rows if row["kind"] in ("harmful", "benign")]
        if spec.startswith("hf:") and not all(row["request"] for row in judged):
            raise ValueError(
                f"{folder}: its answers were kept without the requests, which {spec!r} may read: its verdicts would be on other "
                "texts. Take a judge that reads the answer alone, or evaluate again."
            )
        judging = load_judging(spec, trust_remote_code=trust_remote_code, store=PieceStore(folder / "pieces"))
        rows: dict[str, list[dict[str, Any]]] = {name: [] for name in results["models"]}
        for row in judging.judged(findings.rows):
            rows[row["model"]].append(row)
        found = scored(rows, judging, {name: one["runs"] for name, one in results.get("pooled", {}).items()})
        for part in ("models", "pooled"):
            for name, told in found[part].items():
                _take_in(results[part][name], told)
        results["judge"] = judging.described()
        results["settings"]["judge"] = judging.harmful.name
        results["rejudged"] = command
        warnings = judge_warnings((judging.harmful, judging.benign), results["generation"].get("new_tokens"))
        for said in warnings:
            logger.warning(said)
        others = [said for said in results.get("warnings", ()) if not said.startswith(OF_JUDGE)]
        results["warnings"] = others + warnings
        aside = folder / "rejudged.parquet"
        write_completions(aside, [row for mine in rows.values() for row in mine])
        results["completions"] = file_digest(aside)
        results.pop("rejudging", None)
        # Between the two files, the next call has to know that these answers are those of the folder's results.
        replace_json(folder / "results.json", before | {"rejudging": results["completions"]})
        aside.replace(folder / "completions.parquet")
        replace_json(folder / "results.json", results)
    return results


def _take_in(known: dict[str, Any], told: dict[str, Any]) -> None:
    """Puts new scores in the place of old ones; agreement with a teacher, which no judge enters, is not among them."""
    for key, value in told.items():
        if key == "scores":
            known[key] |= value
        elif key == "against":
            for other, differences in value.items():
                known[key].setdefault(other, {}).update(differences)
        else:
            known[key] = value
