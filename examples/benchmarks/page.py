# SPDX-License-Identifier: Apache-2.0
"""Writes the tables of the benchmarks' page from results files; its words are written by hand."""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from cases import GROWTH_CASE, OBJECTIVE_CASES, PRECISIONS, objective_command
from hf_ckt.checkpoints import replace_block
from hf_ckt.cli.main import run_guarded
from tables import (
    as_markdown,
    demo_rows,
    facts_line,
    fit_check_rows,
    fit_rows,
    floor_sentence,
    growth_rows,
    losing_rows,
    profile_tables,
    ratio_rows,
    tests_rows,
    variant_rows,
)

_RESULTS = "examples/benchmarks/results"
_MARKER = re.compile(r"<!-- bench:(\S+) -->")
# The block that looks at all results.
LOSING = "where_hf_ckt_loses"
# One measured on a GPU beside one of the same name without it, on a CPU.
_STEP_NAME = re.compile(rf"step_({'|'.join(PRECISIONS)})(_checkpointing)?(_cuda)?")
_STEP_8B = "--model random-8b --batch-size 4 --length 2048 --precision nf4 --gradient-checkpointing"
_STEP_8B_VARIANTS = "sft hf_ckt_distillation hf_ckt_all hf_ckt_all_recomputed hf_ckt_noise_adversarial"
# Name -> script and options.
_COMMANDS = {
    "fit": "hf-ckt fit",
    "step_8b": f"python examples/benchmarks/step.py {_STEP_8B} --variants {_STEP_8B_VARIANTS}",
    "step_noise": "python examples/benchmarks/step.py --model smollm2 --data prompts",
    "step_noise_cuda": "python examples/benchmarks/step.py --model smollm2 --data prompts",
    "step_teachers": (
        "python examples/benchmarks/step.py --model smollm2 --precision bf16 --variants sft "
        "hf_ckt_teacher_self hf_ckt_teacher_adapter hf_ckt_teacher_model hf_ckt_teacher_model_4bit hf_ckt_teacher_routed "
        "hf_ckt_teacher_cache hf_ckt_teacher_top_k"
    ),
    "fit_check_24gb": "python examples/benchmarks/fit_check.py --model random-8b --precision nf4 --memory-gb 24",
    "profile_8b": f"python examples/benchmarks/profile_step.py {_STEP_8B}",
    "profile_smollm2": "python examples/benchmarks/profile_step.py --model smollm2 --precision bf16",
    "gpu_tests": "python examples/benchmarks/gpu_tests.py",
    "demo_cuda": "python examples/benchmarks/demo.py",
}


def run(argv: list[str]) -> int:
    """Writes the page."""
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Between <!-- bench:NAME --> and <!-- /bench:NAME --> goes NAME.json.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--page", type=Path, default=here / "README.md", metavar="FILE", help="default README.md beside this script"
    )
    parser.add_argument(
        "--results", type=Path, default=here / "results", metavar="FOLDER", help="default results/ beside this script"
    )
    options = parser.parse_args(argv)
    write_page(options.page, options.results)
    print(options.page)
    return 0


def write_page(page: Path, results: Path) -> None:
    """
    Writes every block `<!-- bench:NAME -->` of a page from `NAME.json`.

    Args:
        page (`Path`):
            Markdown file with the markers.
        results (`Path`):
            Folder of results files. A plot beside a file, `NAME.png`, is shown under its table.

    Raises:
        ValueError: If a marker's name is of no benchmark, or the page has no marker.
    """
    names = _MARKER.findall(page.read_text(encoding="utf-8"))
    if not names:
        raise ValueError(f"{page.name}: has no marker <!-- bench:NAME -->, so nothing would be written.")
    blocks = {name: block_text(name, results, page.parent) for name in dict.fromkeys(names)}
    for name, block in blocks.items():
        replace_block(page, f"bench:{name}", block)


def block_text(name: str, results: Path, folder: Path) -> str:
    """
    Returns what stands between a pair of markers.

    Args:
        name (`str`):
            A results file's stem, or `where_hf_ckt_loses`.
        results (`Path`), folder (`Path`):
            Where results files are, and where the page is.
    """
    if name == LOSING:
        return losing_text(results)
    command = command_of(name)
    document = _read(results / f"{name}.json")
    if document is None:
        return f"Not measured. To do it: `{command}`."
    source = (results / f"{name}.json").resolve().relative_to(folder.resolve()).as_posix()
    parts = [as_markdown(rows) for rows in _tables(document)]
    if document["benchmark"] == "fit":
        parts.append(f"```\n{document['case']['formula']}\n```")
    if document["benchmark"] == "objective" and (sentence := floor_sentence(document)) is not None:
        parts.append(sentence)
    if (elements := document.get("compile_break_even_elements")) is not None:
        parts.append(f"A cold compile is repaid after {elements:.1e} tokens x vocabulary.")
    if (results / f"{name}.png").exists():
        parts.append(f"![{_described(document)}]({source.removesuffix('.json')}.png)")
    return "\n\n".join([*parts, facts_line(document, source)])


def losing_text(results: Path) -> str:
    """Returns the list of all ratios of a folder in which hf_ckt is the worse of two, or misses its target."""
    documents = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*.json"))}
    if not documents:
        return "Nothing is measured yet."
    rows = losing_rows(documents)
    return as_markdown(rows) if len(rows) > 1 else "In none of the cases measured."


def command_of(name: str) -> str:
    """Returns the command that measures the benchmark of that name, to be run in a clone."""
    path = f"{_RESULTS}/{name}.json"
    if name in OBJECTIVE_CASES:
        return objective_command(OBJECTIVE_CASES[name], path)
    if name == "growth":
        return objective_command(GROWTH_CASE, path, growth=True)
    if name in _COMMANDS:
        return f"{_COMMANDS[name]} --json {path}"
    if found := _STEP_NAME.fullmatch(name):
        options = f"--precision {found[1]}{' --gradient-checkpointing' if found[2] else ''}"
        return f"python examples/benchmarks/step.py --model smollm2 {options} --json {path}"
    known = [
        *OBJECTIVE_CASES,
        "growth",
        *_COMMANDS,
        *(f"step_{name}[_checkpointing][_cuda]" for name in PRECISIONS),
    ]
    raise ValueError(f"bench:{name}: is no benchmark's name, so nothing could fill it. Known: {', '.join(known)}.")


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _tables(document: dict[str, Any]) -> list[list[list[str]]]:
    if document["benchmark"] == "growth":
        return [growth_rows(document)]
    if document["benchmark"] == "fit":
        return [fit_rows(document)]
    if document["benchmark"] == "fit_check":
        return [fit_check_rows(document)]
    if document["benchmark"] == "tests":
        return [tests_rows(document)]
    if document["benchmark"] == "demo":
        return [demo_rows(document)]
    if document["benchmark"] == "profile":
        return profile_tables(document)
    return [variant_rows(document), ratio_rows(document)]


def _described(document: dict[str, Any]) -> str:
    return {
        "objective": "Time and extra memory of each variant",
        "growth": "Time and extra memory against tokens, hidden width and vocabulary",
        "step": "Step time and peak memory of each variant against SFTTrainer",
        "profile": "Allocated memory over one training step, and its longest kernels",
    }[document["benchmark"]]


if __name__ == "__main__":
    sys.exit(run_guarded("page.py", lambda: run(sys.argv[1:])))
