# SPDX-License-Identifier: Apache-2.0
"""Score a model and its adapters with EleutherAI's harness: MMLU, GSM8K, any of its tasks, and our suites."""

import argparse
from pathlib import Path
from typing import Any

from .arguments.parser import CommandParser


def run(argv: list[str]) -> int:
    """Scores, prints a table, and says where the files are."""
    options = _parse(argv)

    from ..evaluation.harness.run import HarnessRun, score_with_harness
    from ..evaluation.measuring.models import Loading, public_command

    wanted = HarnessRun(
        model=options.model,
        adapter=options.adapter,
        compare=options.compare,
        tasks=options.tasks,
        limit=options.limit,
        num_fewshot=options.num_fewshot,
        batch_size=options.batch_size,
        chat_template=options.chat_template,
        system_prompt=options.system_prompt,
        system_fallback=options.system_fallback,
        allow_other_base=options.allow_other_base,
        keep_generation_config=options.keep_generation_config,
        loading=Loading.of(options),
    )
    results = score_with_harness(wanted, options.output, public_command("hf-ckt lm-eval", argv))
    print(_table(results))
    for error in results.get("judge", {}).get("error", []):
        print(f"The string judge was right on {error['accuracy']:.0%} of {error['n']} answers of {error['set']}.")
    if options.limit is not None:
        print(f"Only the first {options.limit} documents of each task were scored.")
    print(f"{options.output} holds lm_eval.json, and each answer in lm_eval/.")
    return 0


def _parse(argv: list[str]) -> argparse.Namespace:
    from ..evaluation.measuring.chat_format import add_chat_options
    from ..evaluation.measuring.models import add_model_options

    parser = CommandParser(
        prog="hf-ckt lm-eval",
        description=f"{__doc__} Stopped at any moment, the same command goes on with the task that it was at.",
    )
    add_model_options(parser)
    add_chat_options(parser, thinking=False)
    add = parser.add_argument
    add(
        "--tasks",
        nargs="+",
        required=True,
        metavar="NAME",
        help="mmlu, gsm8k or any other of lm-eval; without a download: hf_ckt_direct, hf_ckt_jailbreak, "
        "hf_ckt_overrefusal, hf_ckt_choices",
    )
    add("--limit", type=int, metavar="N", help="the first N documents of each task or subtask; default: all")
    add("--num-fewshot", type=int, metavar="N", help="examples before each question; default: the task's own number")
    add("--batch-size", type=int, default=8, metavar="N", help="sequences at a time; default: 8")
    add(
        "--no-chat-template",
        dest="chat_template",
        action="store_false",
        help="send plain text, as many published scores of MMLU and GSM8K do; default: each question is a user's turn",
    )
    add("--output", type=Path, required=True, metavar="DIR", help="where results and finished tasks are kept")
    options = parser.parse_args(argv)

    from .arguments.models import require_models

    require_models(options)
    return options


def _table(results: dict[str, Any]) -> str:
    """Tasks by models, each value with its interval, or else its standard error, and the number of documents."""
    rows = [["task", "metric", "better", *results["models"]]]
    for task, row in results["tasks"].items():
        scores = row["models"]
        metric = next(iter(scores.values()))["metric"]
        better = {True: "higher", False: "lower"}.get(row["higher_is_better"], "")
        rows.append([task, metric, better, *(_score(scores[name]) for name in results["models"])])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _score(score: dict[str, Any]) -> str:
    if score["value"] is None:
        return f"none (n={score['n']})"
    spread = "" if score["stderr"] is None else f" ± {score['stderr']:.3f}"
    if score["low"] is not None:
        spread = f" [{score['low']:.3f}, {score['high']:.3f}]"
    return f"{score['value']:.3f}{spread} (n={score['n']})"
