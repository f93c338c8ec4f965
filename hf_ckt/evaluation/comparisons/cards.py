# SPDX-License-Identifier: Apache-2.0
"""
Cards and tables of pages written from results files, so that no number is typed by hand: `make cards`.

    python -m hf_ckt.evaluation.comparisons.cards examples/results/*.json --cards model_cards --pages README.md docs/*.md

Answers that an older judge has judged are judged anew first, and the results file is written again.
"""

import argparse
import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...checkpoints import replace_block, replace_file, replace_json
from ...hub.model_card import build_model_card
from .kept_answers import bring_up_to_date, keeps_answers
from .tables import comparison_rows, measured_sentence


def result_card(results: dict[str, Any], name: str) -> Any:
    """Returns the model card of a results file that holds the facts of its run."""
    return build_model_card(
        **results["run"],
        model_name=name,
        hub_model_id=None,
        dataset_name=None,
        tags=None,
        results=comparison_rows(results),
        results_note=measured_sentence(results),
    )


def page_block(results: dict[str, Any], source: str) -> str:
    """
    Returns the table of a results file for a page, with the line that says how it was measured. Of the rates corrected for
    the judge's error it says where they are: beside the raw ones they would double a table that is read at a glance.
    """
    shown = copy.deepcopy(results)
    corrected = [
        score.pop("corrected", None) for model in shown["models"].values() for score in model["scores"].values()
    ]
    rows = comparison_rows(shown)
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns), *([row[column] for column in columns] for row in rows)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    where = ", which also holds the rates corrected for the judge's error" if any(corrected) else ""
    return f"{table}\n\n{measured_sentence(shown)} From `{source}`{where}."


def write_pages(file: Path, cards: Path, pages: Sequence[Path]) -> list[str]:
    """
    Brings one results file up to date, and writes its card, if it is of one adapter, and its table.

    Returns:
        `list[str]`: what changed in the file, or why nothing was written.

    Raises:
        ValueError: If not exactly one page has the table's markers.
    """
    results, name = json.loads(file.read_text(encoding="utf-8")), file.stem
    places = [page for page in pages if f"<!-- {name} -->" in page.read_text(encoding="utf-8")]
    if len(places) != 1:
        raise ValueError(
            f"--pages: {len(places)} of them have the markers <!-- {name} --> and <!-- /{name} -->, so there is not one "
            "place for the table. Put them on one page."
        )
    if not keeps_answers(results):
        return [f"is of an older version and holds no answers, so its table stays; run `{results['command']}` again"]
    before = copy.deepcopy(results)
    told = bring_up_to_date(results)
    if results != before:
        replace_json(file, results)
    if "run" in results:
        replace_file(cards / f"{name}.md", result_card(results, f"SmolLM2-135M-Instruct, {name}").save)
    replace_block(places[0], name, page_block(results, file.as_posix()))
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--cards", type=Path, required=True)
    parser.add_argument("--pages", type=Path, nargs="+", required=True, help="one of them has the table's markers")
    options = parser.parse_args()
    for file in options.results:
        for line in write_pages(file, options.cards, options.pages):
            print(f"{file.name}: {line}")


if __name__ == "__main__":
    main()
