# SPDX-License-Identifier: Apache-2.0
"""
Tables, pictures and a page, from results files alone.

May enter: what shows numbers; none is computed here that is not in a results file.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...checkpoints import replace_file
from .findings import Findings, read_findings


def write_report(folder: Path, *, plots: bool = True, most_prompts: int = 3000) -> list[Path]:
    """
    Writes `report.md`, `report.html` and `plots/*.png`, `plots/*.svg` beside the results of an evaluation.

    Args:
        folder (`Path`):
            What `hf-ckt evaluate --output` wrote.
        plots (`bool`, *optional*, defaults to `True`):
            Whether to draw plots as files; the page has drawings of its own.
        most_prompts (`int`, *optional*, defaults to `3000`):
            Prompts whose answers are put in the page.

    Returns:
        `list[Path]`: What was written.

    Raises:
        ValueError: If the folder holds no evaluation, a file cannot be read, or matplotlib is missing.
    """
    from .markdown import markdown
    from .page import html_page
    from .plots import draw_plots

    findings = read_findings(folder)
    drawn = draw_plots(findings.results, folder / "plots") if plots else []
    texts = {
        "report.md": markdown(findings, sorted({path.stem for path in drawn})),
        "report.html": html_page(findings, most_prompts=most_prompts),
    }
    for name, text in texts.items():
        replace_file(folder / name, lambda aside, text=text: Path(aside).write_bytes(text.encode()))  # type: ignore[misc]
    return [*(folder / name for name in texts), *drawn]


def readme_block(results: Mapping[str, Any], source: str) -> str:
    """Returns the headline scores of an evaluation with all that they depend on, for a README; `source` names the file."""
    from .probe import bound_sentence
    from .sentences import CHANCE_NOTE, conditions_sentence, judge_sentence, score_sentences, warning_sentences
    from .tables import headline_table, plain

    versions = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    left_out = "".join(f" {suite}: {why}." for suite, why in results["left_out"].items())
    sentences = (bound_sentence(results), score_sentences(results), *warning_sentences(results))
    words = "".join(f" {plain(said)}" for said in sentences if said)
    return (
        f"{headline_table(results)}\n\n`{results['command']}` on {results['device']}. {plain(conditions_sentence(results))} "
        f"{CHANCE_NOTE} {plain(judge_sentence(results))}{words}{left_out} {versions}. From `{source}`."
    )


__all__ = ["Findings", "read_findings", "readme_block", "write_report"]
