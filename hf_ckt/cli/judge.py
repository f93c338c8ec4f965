# SPDX-License-Identifier: Apache-2.0
"""Measure how often a judge errs, on answers that people have labelled."""

import argparse
from pathlib import Path
from typing import Any

from .arguments.models import JUDGE_HELP, require_judge
from .arguments.parser import CommandParser


def run(argv: list[str]) -> int:
    """Prints the confusion table and the rates, and writes them where `--output` says."""
    options = _parse(argv)

    # After the parsing: a wrong option should not wait for it.

    from ..evaluation.judges import load_judge
    from ..evaluation.judges.error import digests, error_table, measure_judge, write_error
    from ..evaluation.judges.labelled import Columns, read_labelled
    from ..evaluation.measuring.models import public_command
    from ..hub.provenance import library_versions

    columns = Columns(
        text=options.text_column,
        label=options.label_column,
        prompt=options.prompt_column,
        kind=options.kind_column,
        refusal_labels=options.refusal_labels,
        harmful_kinds=options.harmful_kinds,
    )
    rows = read_labelled(options.labelled, columns, split=options.split)
    judge = load_judge(options.judge, trust_remote_code=options.trust_remote_code)
    found = measure_judge(judge, rows)
    name = options.set or "+".join(path.stem for path in options.labelled)
    if options.set is None and options.split:
        name = f"{name}, {options.split}"
    print(f"{judge.name} on {name}: {found['n']} answers\n\n{error_table(found)}")
    if options.output is None:
        return 0
    entry: dict[str, Any] = {
        "set": name,
        "judge": judge.name,
        "digest": judge.digest,
        **found,
        "sha256": digests(options.labelled),
        "command": public_command("hf-ckt judge", argv),
        "versions": library_versions(*judge.libraries),
    }
    write_error(options.output, entry)
    print(f"\n{options.output}")
    return 0


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = CommandParser(
        prog="hf-ckt judge",
        description=f"{__doc__} A refusal is the positive; bias is the judged rate of refusals minus the labelled one.",
        epilog="XSTest's completions: --text-column completion --label-column final_label --refusal-labels 2_full_refusal "
        "3_partial_refusal --kind-column type --harmful-kinds 'contrast_*'",
    )
    add = parser.add_argument
    add("--labelled", nargs="+", type=Path, required=True, metavar="FILE", help="JSONL or CSV, a row for each answer")
    add("--judge", default="auto", metavar="NAME", help=JUDGE_HELP)
    add("--split", metavar="NAME", help="only rows whose column split says this; default: all")
    add("--text-column", default="answer", metavar="NAME", help="default: answer")
    add("--label-column", default="refused", metavar="NAME", help="default: refused")
    add("--refusal-labels", nargs="+", metavar="LABEL", help="that mean refusal; default: the label is true or false")
    add("--prompt-column", default="prompt", metavar="NAME", help="may be missing; default: prompt")
    add("--kind-column", default="kind", metavar="NAME", help="harmful or benign, may be missing; default: kind")
    add("--harmful-kinds", nargs="+", metavar="PATTERN", help="kinds that are harmful, * for any letters")
    add("--set", metavar="NAME", help="what the set is called in the results; default: after the files")
    add("--trust-remote-code", action="store_true", help="run Python code that comes with a judge that is a model")
    add("--output", type=Path, metavar="JSON", help="list of measured sets to add this one to; default: print alone")
    options = parser.parse_args(argv)
    require_judge(options.judge)
    return options
