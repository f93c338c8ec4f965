# SPDX-License-Identifier: Apache-2.0
"""Score a model and its adapters: safety, over-refusal, robustness, agreement with a teacher, utility."""

import argparse
from pathlib import Path
from typing import Any

from .arguments.models import JUDGE_HELP
from .arguments.parser import CommandParser


def run(argv: list[str]) -> int:
    """Evaluates, prints the headline table, and says where the files are."""
    options = _parse(argv)

    from ..evaluation.measuring.models import Loading, public_command
    from ..evaluation.report.tables import headline_table
    from ..evaluation.run import Evaluation, evaluate

    evaluation = Evaluation(
        model=options.model,
        adapter=options.adapter,
        compare=options.compare,
        teacher=_teacher(options.teacher),
        tier=options.suite,
        only=options.only,
        judge=options.judge,
        pools=_pools(options.pool),
        data_dir=options.data,
        harmful=_own_prompts(options.harmful, "harmful", options),
        benign=_own_prompts(options.benign, "benign", options),
        responses=_own_responses(options),
        training_texts=_training_texts(options.train_data),
        system_prompt=options.system_prompt,
        system_fallback=options.system_fallback,
        thinking_tokens=options.thinking_tokens,
        new_tokens=options.new_tokens,
        seeds=options.seeds,
        loading=Loading.of(options),
        engine=options.engine,
        token_consistency=not options.no_token_consistency,
        allow_other_base=options.allow_other_base,
        keep_generation_config=options.keep_generation_config,
        probe=options.probe,
        pieces=options.pieces,
    )
    results = evaluate(evaluation, options.output, public_command("hf-ckt evaluate", argv))
    print(headline_table(results))
    for suite, why in results["left_out"].items():
        print(f"{suite}: not measured, {why}")
    for name, model in results["models"].items():
        for suite, why in model.get("left_out", {}).items():
            print(f"{name}, {suite}: not measured, {why}")
        if model["chat"]["template"] != model["chat"]["tokenizer"]:
            print(f"{name}: has no chat template of its own, and was asked with that of {model['chat']['template']}")
    if options.suite == "smoke":
        print("The smoke tier checks the machinery; its numbers are no result.")
    print(f"{options.output} holds results.json and completions.parquet; `hf-ckt report {options.output}` draws them.")
    return 0


def option_names() -> set[str]:
    """Returns all options, for who gives them in a file."""
    return {*_parser()._option_string_actions}


def _parser() -> CommandParser:
    from ..evaluation.measuring.chat_format import add_chat_options
    from ..evaluation.measuring.models import add_model_options
    from ..evaluation.measuring.tiers import TIERS

    parser = CommandParser(
        prog="hf-ckt evaluate",
        description=f"{__doc__} If it is stopped, the same command goes on where it stopped.",
    )
    add_model_options(parser)
    add_chat_options(parser)
    add = parser.add_argument
    add(
        "--teacher",
        nargs="+",
        metavar="ID",
        help="adapter or model that KD alignment is measured with, base for the base; harmful=ID benign=ID: one for each "
        "kind of prompt. Without it, agreement with the base is stated, which is neither good nor bad",
    )
    add(
        "--suite",
        choices=TIERS,
        default="smoke",
        help="how much is asked. smoke: the package's own prompts, minutes on 2 cores, no result to quote; cpu and gpu: "
        "public sets; default: smoke",
    )
    add("--only", nargs="+", metavar="NAME", help="direct, jailbreak, overrefusal, noise, kd, utility; default: all")
    add("--judge", default="auto", metavar="NAME", help=JUDGE_HELP)
    add(
        "--pool",
        nargs="+",
        action="append",
        default=[],
        metavar=("METHOD", "RUN"),
        help="name of a method, then the models of this command that were trained by it with different seeds, by their names "
        "in the results: their scores are pooled. May be given several times",
    )
    add("--data", type=Path, metavar="DIR", help="written by `hf-ckt data fetch`; default: the Hub")
    add(
        "--harmful",
        metavar="FILE",
        help="your own harmful prompts: JSONL, CSV, TSV, TXT, Parquet or Hub id; default: the tier's",
    )
    add("--benign", metavar="FILE", help="your own benign prompts; default: the tier's")
    add("--prompt-column", default="prompt", metavar="NAME", help="column of your own prompts; default: prompt")
    add("--category-column", metavar="NAME", help="column of their categories; default: none")
    add(
        "--responses",
        metavar="FILE",
        help="rows with prompt and response, and kind if there are two teachers, for kd; default: the teacher's own answers",
    )
    add(
        "--train-data",
        nargs="+",
        default=[],
        metavar="FILE",
        help="what was trained on: a prompt that stands there is an error, near-duplicates are warned of and listed",
    )
    add(
        "--probe",
        metavar="FOLDER",
        help="boundary probe of the base, written by `hf-ckt fit-probe`: its AUROC says what the base knows, beside what each "
        "adapter shows; none: leave it out. Default: the one that lies beside the adapter, if there is one",
    )
    add("--new-tokens", type=int, metavar="N", help="most tokens of an answer; default: the tier's")
    add("--seeds", type=int, metavar="N", help="draws of each corruption; default: the tier's")
    add("--engine", choices=("auto", "transformers", "vllm"), default="auto", help="auto: vLLM if installed on a GPU")
    add(
        "--no-token-consistency",
        action="store_true",
        help="leave out token consistency, which takes about as long as the noisy answers",
    )
    add(
        "--pieces",
        type=Path,
        metavar="DIR",
        help="where finished pieces are kept, so that evaluations that ask the same of the same models share them; default: "
        "pieces in the folder of --output",
    )
    add(
        "--output", type=Path, required=True, metavar="DIR", help="where results, answers and finished pieces are kept"
    )
    return parser


def _parse(argv: list[str]) -> argparse.Namespace:
    options = _parser().parse_args(argv)

    from ..checks import require_count
    from .arguments.models import require_judge, require_models

    require_models(options)
    require_judge(options.judge)
    for name in ("new_tokens", "seeds"):
        if getattr(options, name) is not None:
            require_count(f"--{name.replace('_', '-')}", getattr(options, name), 1, "With none there is no rate.")
    return options


def _own_prompts(source: str | None, kind: Any, options: argparse.Namespace) -> Any:
    if source is None:
        return None
    from ..data.prompt_sets import load_own_prompts

    return load_own_prompts(source, kind, prompt_column=options.prompt_column, category_column=options.category_column)


def _pools(given: list[list[str]]) -> dict[str, list[str]]:
    pools: dict[str, list[str]] = {}
    for name, *runs in given:
        if name in pools:
            raise ValueError(
                f"--pool: {name!r} is named twice, and the runs named first would be left out. Give all of its runs at once."
            )
        pools[name] = runs
    return pools


def _teacher(given: list[str] | None) -> Any:
    """One name for all prompts, or one for each kind: `entries` says which kinds there are."""
    if given is None or (len(given) == 1 and not given[0].startswith(("harmful=", "benign="))):
        return given and given[0]
    pairs = [one.partition("=")[::2] for one in given]
    if len(dict(pairs)) < len(pairs):
        raise ValueError(
            f"--teacher: names a kind of prompt twice ({' '.join(given)}), and one of both would be left out unsaid. Write "
            "harmful=ID benign=ID."
        )
    return dict(pairs)


def _own_responses(options: argparse.Namespace) -> Any:
    if options.responses is None:
        return None
    from ..checks import require_columns, require_known
    from ..data.files import load_rows, place_of_row, shown_name
    from ..evaluation.measuring.suites import Exchange

    source, two = options.responses, len(options.teacher or ()) > 1
    rows = load_rows(source)
    needed = ("prompt", "response", *(("kind",) if two else ()))
    require_columns(shown_name(source), rows.column_names, needed, "--responses")
    kinds = rows["kind"] if two else [""] * len(rows)
    found = []
    for index, (prompt, response, kind) in enumerate(zip(rows["prompt"], rows["response"], kinds, strict=True)):
        place = place_of_row(source, index)
        if not all(isinstance(text, str) and text.strip() for text in (prompt, response)):
            raise ValueError(
                f"--responses: {place} has {(prompt, response)!r:.80} as prompt and response, where agreement needs two "
                "texts. Drop the row or fill it."
            )
        if two:
            require_known(f"--responses: {place}, kind", kind, ("harmful", "benign"))
        found.append(Exchange(f"own/{index}", kind, prompt, response))
    return found


def _training_texts(sources: list[str]) -> dict[str, list[str]] | None:
    if not sources:
        return None
    from ..data.contamination import training_texts
    from ..data.files import load_rows, shown_name

    found: dict[str, list[str]] = {}
    for source in dict.fromkeys(sources):
        rows, name = load_rows(source), shown_name(source)
        try:
            # Two files of one name in two folders are two files.
            found[name if name not in found else f"{name} ({len(found) + 1})"] = list(training_texts(rows))
        except (ValueError, TypeError) as error:
            raise ValueError(f"--train-data: {shown_name(source)}: {error}") from error
    return found
