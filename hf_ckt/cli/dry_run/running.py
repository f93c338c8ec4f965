# SPDX-License-Identifier: Apache-2.0
"""A run that is built as for training, shown, and ended before its first optimizer step."""

import math
import tempfile
from collections.abc import Callable
from typing import Any

from ..arguments.checkpoints import resolve_checkpoint

_DOCUMENTS = 3
# Rows in which the longest is looked for.
_LOOKED_AT = 1000


def show_run(
    build: Callable[..., Any],
    changed: dict[str, tuple[Any, Any]],
    script: Any,
    args: Any,
    model: Any,
    mixture: Any,
    teacher: Any,
) -> None:
    """
    Prints what a run would train on and with, what it needs and how long it would take. Nothing is trained, saved, pushed
    or reported, and its output folder is not made.

    Args:
        build (`Callable`):
            Makes the trainer of what follows `changed`.
        changed (`dict`):
            The settings that differ from their defaults: by name, the value and the default.
        script, args, model, mixture, teacher:
            As for [`~cli.train.build_trainer`].

    Raises:
        ValueError: What the run itself would raise; and if its first loss is not finite.
    """
    from ...fit.run_memory import run_memory
    from ...hub.run_card import local_facts
    from ...models._upstream import end_training
    from ...training.preview import first_documents, model_facts
    from ...training.trial import plan, run_trial, why_no_trial
    from .printing import Page

    args.resume_from_checkpoint = resolve_checkpoint(args.resume_from_checkpoint, args.output_dir)
    args.push_to_hub, args.disable_tqdm, args.eval_on_start = False, True, False
    # A trainer makes the folder that it is given.
    with tempfile.TemporaryDirectory() as folder:
        args.output_dir = folder
        trainer = build(script, args, model, mixture, teacher)
        page = Page(shown=trainer.accelerator.is_main_process)
        facts = local_facts(trainer)
        page.settings(changed, _resolved(trainer, changed))
        page.objective(facts["objective"])
        page.rows(
            first_documents(trainer, _DOCUMENTS),
            noisy=trainer.objective is not None and "noisy" in trainer.objective.views,
        )
        page.model(facts, model_facts(trainer))
        width, known = _longest_row(trainer)
        rows = args.per_device_train_batch_size
        page.memory(run_memory(trainer, rows * width), rows, width, known)
        reason = why_no_trial(trainer)
        steps = plan(trainer)
        trial = run_trial(trainer) if reason is None else reason
        page.steps(steps, trial, trainer)
        end_training(trainer)
    if not isinstance(trial, str) and not math.isfinite(trial.loss):
        raise ValueError(
            f"loss: is {trial.loss} on the first micro-batches, so the first optimizer step would make every trained weight "
            "the same. Look at the rows above, lower learning_rate, or train in bfloat16 or float32."
        )


def _resolved(trainer: Any, changed: dict[str, tuple[Any, Any]]) -> dict[str, Any]:
    """What settings that were left at None became."""
    from ...training.config import EXTRA_ROLES

    args, terms = trainer.args, {} if trainer.objective is None else trainer.objective.terms
    found = {}
    for role in EXTRA_ROLES:
        if getattr(args, f"{role}_weight") is None:
            found[f"{role}_weight"] = terms[role].schedule.weight if role in terms else 0.0
    return found | ({"bf16": True} if args.bf16 and "bf16" not in changed else {})


def _longest_row(trainer: Any) -> tuple[int, str]:
    """Tokens of the longest row, and of which rows."""
    from itertools import islice

    dataset = trainer.train_dataset
    rows = [len(row["input_ids"]) for row in islice(dataset, _LOOKED_AT) if "input_ids" in row]
    try:
        known = "all rows" if len(dataset) <= _LOOKED_AT else f"the first {_LOOKED_AT:,} rows"
    except TypeError:
        known = f"the first {len(rows):,} rows"
    return max(rows, default=trainer.args.max_length or 0), known
