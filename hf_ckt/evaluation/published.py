# SPDX-License-Identifier: Apache-2.0
"""What of an evaluation is published beside the weights that it measured: scores and settings, no answers."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..hub.model_card import CardEvaluation
from ..hub.publishing import PublishedEvaluation
from .measuring.weights import digest_and_revision
from .model_index import headline_results
from .report import read_findings, readme_block

_PLACE = "evaluation"
_FILES = ("results.json", "lm_eval.json", "report.md")


def find_evaluation(run: Path) -> Path | None:
    """Returns where an evaluation lies in a saved run's folder, itself or its `evaluation/`; None: there is none."""
    return next((folder for folder in (run, run / _PLACE) if (folder / "results.json").is_file()), None)


def published_evaluation(folder: Path, run: Path, is_adapter: bool) -> PublishedEvaluation:
    """
    Returns what is published of an evaluation.

    Args:
        folder (`Path`):
            What `hf-ckt evaluate --output` wrote. A report beside it goes along with its plots.
        run (`Path`):
            The folder with the weights, one of the models evaluated.
        is_adapter (`bool`):
            Whether they are those of an adapter.

    Raises:
        ValueError: If it is no evaluation, or one of other weights: a card would show what another model can.
    """
    results = read_findings(folder).results
    name = _measured(results, run, is_adapter)
    title = results["models"][name]["title"]
    files = {f"{_PLACE}/{file}": folder / file for file in _FILES if (folder / file).is_file()}
    if f"{_PLACE}/report.md" in files:
        plots = re.findall(r"\]\((plots/[\w.-]+\.svg)\)", files[f"{_PLACE}/report.md"].read_text(encoding="utf-8"))
        files |= {f"{_PLACE}/{plot}": folder / plot for plot in plots if (folder / plot).is_file()}
    block = readme_block(results, f"{_PLACE}/results.json")
    text = f"The column `{title}` is the model of this card.\n\n{block}"
    return PublishedEvaluation(CardEvaluation(text, headline_results(results, name, results["sets"])), files)


def _measured(results: Mapping[str, Any], run: Path, is_adapter: bool) -> str:
    """Which of the models evaluated has the weights of a folder."""
    digest = digest_and_revision(str(run))["digest"]
    for name, model in results["models"].items():
        weights = model.get("weights") or {}
        measured = weights.get("adapter") if is_adapter or weights.get("adapter") else weights.get("base")
        if measured and measured.get("digest") == digest:
            return str(name)
    raise ValueError(
        f"results.json: none of the models evaluated ({', '.join(results['models'])}) has the weights in {run}, so the card would "
        "show scores of another model. Evaluate what is pushed, with `hf-ckt evaluate`, and give its --output as --evaluation."
    )
