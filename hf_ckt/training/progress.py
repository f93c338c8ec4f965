# SPDX-License-Identifier: Apache-2.0
"""What is seen of a training as it runs."""

import sys
from collections.abc import Iterator, Mapping
from typing import Any

from transformers import ProgressCallback
from transformers.trainer_utils import has_length

from ..objective.objective import ROLES
from ..progress.bars import ProgressBar, in_terminal

# What an evaluation and the end of a run log beside losses and metrics.
_TIMES = ("_runtime", "_per_second", "_time")
_TITLES = {f"{role}_loss": role for role in ROLES}
_SETTINGS = {"learning_rate": "learning rate", "grad_norm": "gradient norm"}
# They stand in every entry.
_COUNTS = ("epoch", "step", "num_tokens", "num_input_tokens_seen", "total_flos")


class LineProgressCallback(ProgressCallback):
    """
    Shows a training as one line: its steps, the time left, the loss and every active term. In a terminal the line is drawn
    over; in a pipe or a file one is written at each logging step, with learning rate and norm of the gradient. An evaluation
    adds one line. It writes to standard output, by the main process alone.

    Given to [`ContrastiveRobustTrainer`], it takes the place of transformers' `ProgressCallback` and `PrinterCallback`; from
    another trainer they are taken with `remove_callback`. `disable_tqdm=True` has whole lines in a terminal too.

    Args:
        title (`str`, *optional*, defaults to `"training"`):
            What the line begins with.

    Example:

    ```python
    trainer.add_callback(LineProgressCallback("student"))
    ```
    """

    training_bar: Any
    prediction_bar: Any

    def __init__(self, title: str = "training"):
        super().__init__()
        self.title = title

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begins the line, after a resume where the run goes on."""
        if not state.is_world_process_zero:
            return
        self._end()  # of an attempt that ran out of memory
        self.current_step = state.global_step
        self.training_bar = self._bar(args, state.max_steps, self.title, "step", initial=state.global_step)

    def on_prediction_step(
        self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **kwargs: Any
    ) -> None:
        """Counts the batches of an evaluation."""
        if not (state.is_world_process_zero and has_length(eval_dataloader)):
            return
        if self.prediction_bar is None:
            self.prediction_bar = self._bar(args, len(eval_dataloader), "evaluating", "batch", leave=False)
        self.prediction_bar.update(1)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Says what was logged."""
        if not state.is_world_process_zero or not logs or "train_runtime" in logs:
            return
        if "loss" in logs and self.training_bar is not None:
            on_lines = self._on_lines(args)
            names = [*_terms(logs), *(_SETTINGS if on_lines else ())]
            self.training_bar.set_postfix_str(", ".join(_said(logs, names, digits=4 if on_lines else 3)))
            return
        names = [name for name in logs if name.removeprefix("eval_") not in _COUNTS and not name.endswith(_TIMES)]
        said = ", ".join(_said(logs, names))
        if said:
            what = "evaluation, " if any(name.startswith("eval_") for name in names) else ""
            line = f"{self.title}: {what}step {state.global_step}: {said}"
            ProgressBar.write(line, file=sys.stdout)
            sys.stdout.flush()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ends the line."""
        if state.is_world_process_zero:
            self._end()

    def _end(self) -> None:
        for bar in (self.prediction_bar, self.training_bar):
            if bar is not None:
                bar.close()
        self.prediction_bar = self.training_bar = None

    def _on_lines(self, args: Any) -> bool:
        return args.disable_tqdm or not in_terminal(sys.stdout)

    def _bar(self, args: Any, total: int, title: str, unit: str, **kwargs: Any) -> ProgressBar:
        lines = self._on_lines(args)
        return ProgressBar(
            total=total, desc=title, unit=unit, file=sys.stdout, lines=lines, only_when_told=lines, **kwargs
        )


def _terms(logs: Mapping[str, Any]) -> Iterator[str]:
    """The loss and its terms, without the shares that single teachers have in them."""
    yield "loss"
    for name in logs:
        if name.endswith("_loss"):
            yield name


def _said(logs: Mapping[str, Any], names: Any, digits: int = 4) -> Iterator[str]:
    for name in names:
        value = logs.get(name)
        if value is None:
            continue
        shown = f"{value:.{digits}g}" if isinstance(value, float) else f"{value!s:.60}"
        plain = name.removeprefix("eval_")
        yield f"{(_TITLES | _SETTINGS).get(plain, plain.replace('_', ' '))} {shown}"
