# SPDX-License-Identifier: Apache-2.0
"""Keep what a served model said of the run's rows, its most probable tokens, for training from it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..checks import require_count
from .arguments.models import require_model
from .arguments.parser import CommandParser


def run(argv: list[str]) -> int:
    """Matches what was served to the run's rows, writes the store, and prints what it holds."""
    parser = CommandParser(
        prog="hf-ckt import-logprobs",
        description=f"{__doc__} Besides the options below, all of `hf-ckt train` are taken, with the same run file; teachers "
        "that it names are not loaded.",
        epilog="A line of a FILE is a response of an OpenAI-style server with logprobs (a completion with echo, or a chat "
        "whose answer is the row's), has vLLM's prompt_logprobs, or columns input_ids, top_ids and top_log_probs (at each token, "
        "of what follows it). `row` in it is the number of the run's row, counted from 0; else lines are in the rows' order.",
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="of the training rows: .jsonl or .parquet")
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="YAML file of the run")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of the cache")
    parser.add_argument(
        "--eval-files",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILE",
        help="of the evaluation's, where there is one",
    )
    parser.add_argument("--name", default=None, help="what the teacher is called; by default as the responses say")
    parser.add_argument(
        "--compare",
        default=None,
        metavar="MODEL",
        help="the same teacher as a Hub id or folder, where it is at hand: what is lost against it is measured and kept",
    )
    parser.add_argument(
        "--compare-rows", type=int, default=256, help="rows that are compared, evenly spaced (default: %(default)s)"
    )
    options, others = parser.parse_known_args(argv)
    require_count("--compare-rows", options.compare_rows, 1, "Of no rows nothing is measured.")
    require_model("--compare", options.compare)
    for path in (*options.files, *options.eval_files):
        if not path.is_file():
            raise FileNotFoundError(f"no such file: {str(path)!r}. Name what was served of the run's rows.")

    def write(trainer: Any) -> None:
        from ..data.served_log_probs import served_rows
        from ..training.run_documents import loaded_datasets
        from ..training.served_teacher import import_log_probs

        given = {
            name: served_rows(options.files if name == "train_dataset" else options.eval_files)
            for name in loaded_datasets(trainer)
        }
        exact: Any = None
        if options.compare is not None:
            from transformers import AutoModelForCausalLM

            exact = AutoModelForCausalLM.from_pretrained(options.compare, dtype="auto")
            exact.to(trainer.accelerator.device)
        found = import_log_probs(
            trainer, options.output, given, name=options.name, exact=exact, compared_rows=options.compare_rows
        )
        print(
            f"{found.rows:,} rows, {found.positions:,} positions, up to {found.width} tokens at each. Lossy: of all other tokens "
            f"the mass alone is known, {found.tail:.2%} on average."
        )
        if found.lossy is not None:
            print(f"Against {options.compare}: {found.lossy}.")
        if found.silent:
            print(f"At {found.silent:,} positions, the ends of texts, nothing was said; nobody teaches them.")
        if found.unknown:
            print(f"{found.unknown:,} names are no token of this tokenizer, or several; they count among the others.")
        print(
            f"Saved to {options.output}: train with --teacher-cache {options.output}, or teacher_cache: in the run file, and "
            "contrastive_weight: 0, since there are no hidden states to contrast."
        )

    with_prepared_run(["--config", str(options.config), *others], write)
    return 0


def with_prepared_run(argv: list[str], work: Callable[[Any], None]) -> None:
    """
    Calls what is to be done with a trainer that has a run's rows, each a document, and no teacher.

    Args:
        argv (`list[str]`):
            Options of `hf-ckt train`.
        work (`Callable`):
            Takes the trainer.
    """
    from .train import with_trainer

    def without_teacher(args: Any, teacher: Any) -> None:
        for role in ("distillation", "contrastive", "consistency", "regularization"):
            setattr(args, f"{role}_weight", 0.0)
        args.task_weight, args.task_schedule, args.label_trust, args.role_rows = 1.0, "constant", False, None
        args.teacher_cache = args.teacher_system_prompt = args.consistency_budget = None
        args.task_token_weights = args.distillation_token_weights = "uniform"
        args.token_weights_half_life = args.token_weights_floor = args.token_weights_settings = None
        args.contrastive_rejected = False
        if args.packing or args.eval_packing:
            # Documents are cut at max_length as a row is; padding-free without packing, none would be.
            args.packing = args.eval_packing = args.padding_free = False
        teacher.teacher_model_name_or_path = teacher.teachers = None
        teacher.teacher_load_in_4bit = teacher.teacher_load_in_8bit = False

    with_trainer(argv, work, without_teacher)
