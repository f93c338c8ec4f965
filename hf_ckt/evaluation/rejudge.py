# SPDX-License-Identifier: Apache-2.0
"""Kept answers under another judge, or a newer one: no model answers again."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..checkpoints import replace_json
from .judging import load_judging
from .measuring.store import PieceStore, file_digest, only_writer
from .report.findings import read_findings
from .results import scored, write_completions

_ASIDE = "completions.rejudged.parquet"


def rejudge(folder: Path, spec: str = "auto", *, trust_remote_code: bool = False, command: str = "") -> dict[str, Any]:
    """
    Judges the answers of a finished evaluation and writes its scores anew. What no verdict enters stays as it is. Stopped at
    any moment, the same call ends what was begun.

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
        ValueError: If another process writes to the folder, or it holds no evaluation with its answers.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: is no folder, so there are no answers to judge. Give what `--output` named.")
    with only_writer(folder, ".lock", "evaluation"):
        _end_the_last(folder)
        findings = read_findings(folder)
        if not findings.rows:
            raise ValueError(
                f"{folder}: holds no completions.parquet with answers, so there is nothing to judge. Evaluate again."
            )
        results = findings.results
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
        write_completions(folder / _ASIDE, [row for mine in rows.values() for row in mine])
        results["completions"] = file_digest(folder / _ASIDE)
        replace_json(folder / "results.json", results)
        (folder / _ASIDE).replace(folder / "completions.parquet")
    return results


def _end_the_last(folder: Path) -> None:
    """Puts the answers of a call that was stopped in their place, where its results are already there."""
    aside = folder / _ASIDE
    if aside.exists():
        with suppress(OSError, ValueError, KeyError, TypeError):  # what cannot be read is said by who reads it next
            results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
            if results["completions"] == file_digest(aside):
                aside.replace(folder / "completions.parquet")


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
