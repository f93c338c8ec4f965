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
from typing import TYPE_CHECKING, Any

from ...checkpoints import replace_block, replace_file, replace_json
from ...hub.model_card import CardEvaluation, build_model_card
from ..model_index import headline_results
from .kept_answers import bring_up_to_date, keeps_answers
from .tables import command_of, comparison_rows, measured_sentence

if TYPE_CHECKING:
    from huggingface_hub import ModelCard


def result_card(results: dict[str, Any], name: str) -> "ModelCard":
    """
    Returns the model card of a results file that holds the facts of its run: that of its last model.

    Args:
        results (`dict`):
            What is in the file; with `run`, of [`~hub.run_card.run_facts`].
        name (`str`):
            What the run is called, which follows the base's name in the title.
    """
    # A file that was written before data were recorded tells what its recipe read.
    recipe = results["settings"].get("recipe")
    data = {"names": [own_set_name(recipe["data"])]} if recipe else None
    own = list(results["models"])[-1]
    title = results["models"][own]["title"]
    text = f"The column `{title}` is the model of this card.\n\n{_table(results)}\n\n{measured_sentence(results)}"
    return build_model_card(
        **{"data": data, "resumed": results["resumed"]}
        | results["run"]
        | {"command": command_of(results), "device": results["device"]},
        model_name=f"{results['base_model'].rpartition('/')[2]}-{name}",
        evaluation=CardEvaluation(text, headline_results(results, own, _sets(results))),
    )


def own_set_name(name: str) -> str:
    """
    Returns what one of the package's own training sets is called on a card.

    Example:

    >>> own_set_name("boundary")
    'boundary set of hf_ckt'
    """
    return f"{name} set of hf_ckt"


def page_block(results: dict[str, Any], source: str) -> str:
    """
    Returns the table of a results file for a page, with the line that says how it was measured. Of the rates corrected for
    the judge's error it says where they are: beside the raw ones they would double a table that is read at a glance.
    """
    shown = copy.deepcopy(results)
    corrected = [
        score.pop("corrected", None) for model in shown["models"].values() for score in model["scores"].values()
    ]
    where = ", which also holds the rates corrected for the judge's error" if any(corrected) else ""
    return f"{_table(shown)}\n\n{measured_sentence(shown)} From `{source}`{where}."


def _table(results: dict[str, Any]) -> str:
    rows = comparison_rows(results)
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns), *([row[column] for column in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _sets(results: dict[str, Any]) -> list[dict[str, str]]:
    """The sets of prompts of a comparison, each with the suite of an evaluation that asks such."""
    plain = {"harmful": "direct", "benign": "overrefusal"}
    found = [(row["set"], "noise" if row["corruption"] else plain[row["kind"]]) for row in results["prompts"]]
    found += [(row["set"], "kd") for row in results["prompts"] if "agreement" in results]
    found += [(row["set"], "utility") for model in results["models"].values() for row in model.get("utility") or ()]
    return [{"name": name, "suite": suite} for name, suite in dict.fromkeys(found)]


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
        return [f"is of an older version and holds no answers, so its table stays; run `{command_of(results)}` again"]
    before = copy.deepcopy(results)
    told = bring_up_to_date(results)
    if results != before:
        replace_json(file, results)
    if "run" in results:
        replace_file(cards / f"{name}.md", result_card(results, name).save)
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
