# SPDX-License-Identifier: Apache-2.0
"""Run the teachers of a run once over its data, and keep what they say for training without them."""

from pathlib import Path
from typing import Any

from ..checks import require_count, require_positive
from .arguments.parser import CommandParser

# As in models/signal_store/records.py, without an import of torch for the help.
_DTYPES = ("bfloat16", "float32", "float16", "int8")


def run(argv: list[str]) -> int:
    """Builds the run's trainer, writes its cache, and prints what that costs."""
    parser = CommandParser(
        prog="hf-ckt cache-teacher",
        description=f"{__doc__} Besides the options below, all of `hf-ckt train` are taken, with the same run file; a "
        "teacher_cache that it names is left out. Started again, it goes on where it was stopped; under `accelerate launch`, "
        "each process writes its own part.",
    )
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="YAML file of the run")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of the cache")
    parser.add_argument(
        "--dtype",
        choices=_DTYPES,
        help="in which the hidden states are kept; that of the models is the run file's (default: bfloat16)",
    )
    parser.add_argument(
        "--top-k",
        type=int,
        default=None,
        metavar="K",
        help="keep only the K most probable tokens, in float32, in place of hidden states: lossy, as a served teacher is",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        default=None,
        help="documents of a pass; by default the run's per_device_train_batch_size",
    )
    parser.add_argument(
        "--shard-mb",
        type=float,
        default=256.0,
        help="size of a file, in 10^6 bytes; what is done of one is lost where the command is stopped (default: %(default)g)",
    )
    options, others = parser.parse_known_args(argv)

    require_positive("--shard-mb", options.shard_mb, "A file holds something.")
    if options.top_k is not None and options.dtype not in (None, "float32"):
        raise ValueError(
            f"--dtype: --top-k keeps probabilities in float32, so {options.dtype} would be ignored. Leave one of the two out."
        )
    dtype = "float32" if options.top_k is not None else options.dtype or _DTYPES[0]
    if options.batch_size is not None:
        require_count("--batch-size", options.batch_size, 1, "A pass reads at least one document.")

    from .train import with_trainer

    def runs_them(args: Any, _: Any) -> None:
        args.teacher_cache = None

    def write(trainer: Any) -> None:
        from ..models.signal_store.measured import measured_errors
        from ..training.teacher_cache import cache_teachers

        say = trainer.accelerator.print
        index = cache_teachers(
            trainer,
            options.output,
            dtype=dtype,
            top_k=options.top_k,
            batch_size=options.batch_size,
            shard_bytes=int(options.shard_mb * 1e6),
            say=say,
        )
        if index:
            errors = measured_errors(index)
            kept = f"as the {options.top_k} most probable tokens" if options.top_k is not None else f"in {dtype}"
            off = (
                f"the states are off by {errors['states']:.2%} (root mean square), and " if "states" in errors else ""
            )
            say(
                f"Kept {kept}: {off}the teacher's distribution is off by {errors['kl']:.2e} nats (mean KL of "
                f"{index['measured']['compared']:,.0f} positions)."
            )
        say(
            f"Saved to {options.output}: train with --teacher-cache {options.output}, or teacher_cache: in the run file."
        )

    with_trainer(["--config", str(options.config), *others], write, runs_them)
    return 0
