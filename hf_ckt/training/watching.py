# SPDX-License-Identifier: Apache-2.0
"""What a trainer shows of its run: one progress line, names in groups for trackers, and its log as a figure."""

from typing import Any

from transformers import PrinterCallback, ProgressCallback, TrainerCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.trainer import DEFAULT_PROGRESS_CALLBACK

from .history_plot import plot_history
from .log_names import group_names
from .progress import LineProgressCallback
from .resuming import ResumableTrainer

_DEFAULTS = (PrinterCallback, ProgressCallback, DEFAULT_PROGRESS_CALLBACK)
_TRACKERS: Any = tuple(INTEGRATION_TO_CALLBACK.values())


class WatchedTrainer(ResumableTrainer):
    """SFTTrainer that shows its progress once, and to trackers by the names that its configuration asks for."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if self.args.grouped_log_names:
            for callback in self.callback_handler.callbacks:
                self._group_names_for(callback)

    def add_callback(self, callback: type[TrainerCallback] | TrainerCallback) -> None:
        """As [`~transformers.Trainer.add_callback`]; beside a [`LineProgressCallback`] no other shows the same."""
        callbacks = self.callback_handler.callbacks
        added = callback() if isinstance(callback, type) else callback
        if isinstance(added, LineProgressCallback):
            for one in [one for one in callbacks if isinstance(one, _DEFAULTS)]:
                super().remove_callback(one)
        elif isinstance(added, _DEFAULTS) and any(isinstance(one, LineProgressCallback) for one in callbacks):
            return
        super().add_callback(added)
        if self.args.grouped_log_names:
            self._group_names_for(added)

    def plot_history(self) -> Any:
        """Returns the log so far as a `matplotlib.figure.Figure`, see [`~training.history_plot.plot_history`]."""
        return plot_history(self)

    def _group_names_for(self, callback: TrainerCallback) -> None:
        if isinstance(callback, _TRACKERS) and "on_log" not in vars(callback):
            group_names(callback)
