# SPDX-License-Identifier: Apache-2.0
"""
Cards and tables of pages written from results files, so that no number is typed by hand: `make cards`.

    python -m hf_ckt.hub.result_card examples/results/quickstart.json --cards model_cards --pages README.md docs/*.md
"""

import argparse
import json
from pathlib import Path
from typing import Any

from ..checkpoints import replace_block, replace_file
from .comparison_table import comparison_rows, comparison_source
from .model_card import build_model_card

_ROWS = {
    "harmful": "harmful: refused (more is better)",
    "lookalike": "benign look-alikes: refused (less is better)",
    "harmful, typos": "harmful, with typos: refused",
    "lookalike, typos": "look-alikes, with typos: refused",
}
_AGREEMENT = {
    "acceptance": "agreement with the teacher: acceptance",
    "teacher_agreement": "agreement with the teacher: top-1",
}
_MODELS = ("before", "teacher", "after")


def result_rows(results: dict[str, Any]) -> list[dict[str, str]]:
    """
    Returns the table of a before / teacher / after comparison, a row a measure, each rate with n and 95 % interval.

    Args:
        results (`dict`):
            `models.<name>.rates.<kind>` with `refused`, `low`, `high`, `n`; `agreement.<name>.<metric>`.
    """
    rows = []
    for kind, label in _ROWS.items():
        rates = {name: results["models"][name]["rates"][kind] for name in _MODELS}
        cells = {
            name: f"{rate['refused']:.2f} [{rate['low']:.2f}, {rate['high']:.2f}] n={rate['n']}"
            for name, rate in rates.items()
        }
        rows.append({"held-out prompts": label, **cells})
    for metric, label in _AGREEMENT.items():
        before, after = (f"{results['agreement'][name][metric]:.3f}" for name in ("before", "after"))
        rows.append({"held-out prompts": label, "before": before, "teacher": "1", "after": after})
    return rows


def result_card(results: dict[str, Any], name: str) -> Any:
    """Returns the model card of a results file that holds the facts of its run."""
    return build_model_card(
        **results["run"],
        model_name=name,
        hub_model_id=None,
        dataset_name=None,
        tags=None,
        results=result_rows(results),
    )


def is_comparison(results: dict[str, Any]) -> bool:
    """Whether a results file compares methods under corruptions; it has no one adapter whose card could be written."""
    return "corruptions" in results


def page_block(results: dict[str, Any], source: str) -> str:
    """Returns the table of a results file for a page, with the line that says how it was measured."""
    rows = comparison_rows(results) if is_comparison(results) else result_rows(results)
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns), *([row[column] for column in columns] for row in rows)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    if is_comparison(results):
        return f"{table}\n\n{comparison_source(results)} From `{source}`."
    versions = ", ".join(f"{name} {number}" for name, number in results["run"]["framework_versions"].items())
    return (
        f"{table}\n\n`{results['command']}` on {results['device']}: {results['seconds']} s; seed "
        f"{results['settings']['seed']}; {results['judge']}; {versions}. From `{source}`."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--cards", type=Path, required=True)
    parser.add_argument("--pages", type=Path, nargs="+", required=True, help="one of them has the table's markers")
    options = parser.parse_args()
    results = json.loads(options.results.read_text(encoding="utf-8"))
    name = options.results.stem
    if not is_comparison(results):
        card = result_card(results, f"SmolLM2-135M-Instruct, {name}")
        replace_file(options.cards / f"{name}.md", card.save)
    places = [page for page in options.pages if f"<!-- {name} -->" in page.read_text(encoding="utf-8")]
    if len(places) != 1:
        raise ValueError(
            f"--pages: {len(places)} of them have the markers <!-- {name} --> and <!-- /{name} -->, so there is not one "
            "place for the table. Put them on one page."
        )
    replace_block(places[0], name, page_block(results, options.results.as_posix()))


if __name__ == "__main__":
    main()
