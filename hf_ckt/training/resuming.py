# SPDX-License-Identifier: Apache-2.0
"""What a trainer does so that runs which are cut off, tried again or started twice are the run in one go."""

import logging
import os
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from ..checkpoints import last_complete_checkpoint
from .facts import require_trainable
from .grouping import GroupedTrainer
from .log_sums import LogSums
from .record import card_kept, write_record
from .state import TrainingState

logger = logging.getLogger(__name__)


class ResumableTrainer(GroupedTrainer):
    """SFTTrainer with the further state of an objective in its checkpoints, and no step beyond the last."""

    _state_to_save: TrainingState | None = None
    """None where SFTTrainer's own loss trains."""
    dataset_name: str | Sequence[str] | None = None
    """What the training data are called on the card and in the record: Hub ids, or words. May be set at any time."""
    given_rows: Any = None
    """The training set as it was given."""
    data_facts: dict[str, Any] | None = None
    """Number and fingerprint of its rows, once they are asked for."""
    resumed: bool = False
    """Whether the last training began at a checkpoint."""
    model: Any
    _sums: dict[str, LogSums]

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As [`~transformers.Trainer.train`]; `resume_from_checkpoint=True` takes the last *complete* checkpoint."""
        require_trainable(self.model)
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_complete_checkpoint(str(self.args.output_dir))
        self.resumed = bool(resume_from_checkpoint)
        if self._state_to_save is not None:
            if isinstance(resume_from_checkpoint, (str, os.PathLike)):
                where = str(resume_from_checkpoint)
                self._state_to_save.restore(where, self.args.process_index, self.args.world_size)
            self._before_attempts = self._state_to_save.remember(), self._total_train_tokens
        return super().train(resume_from_checkpoint, *args, **kwargs)

    # transformers 5.17 to 5.24, private: called once in each attempt, when the number of steps is known and the state of
    # a checkpoint is read. There is no callback before the first step that could prevent it.
    def _init_training_state(self, max_steps: int, steps_per_epoch: int, epochs: int, *rest: Any) -> tuple[int, int]:
        """
        Where to begin, as Trainer says it, with two corrections.

        `auto_find_batch_size` starts anew with smaller batches when memory runs out: of the attempt before, nothing stays
        in the objective's state and in the sums that are logged. And where a checkpoint is of the last step, Trainer
        would make one more before it looks at the number of steps.
        """
        begin = super()._init_training_state(max_steps, steps_per_epoch, epochs, *rest)
        if self._state_to_save is not None:
            state, self._total_train_tokens = self._before_attempts
            self._state_to_save.put_back(state)
            self._sums["train"].clear()
        if self.state.global_step < max_steps:
            return begin
        logger.warning(
            "resume_from_checkpoint: step %d of %d is done, so nothing is left to train.",
            self.state.global_step,
            max_steps,
        )
        return epochs, 0

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if self._state_to_save is not None:
            # Before the rest: trainer_state.json, which makes a checkpoint complete, is the last file written.
            folder = os.path.join(self._get_output_dir(trial=trial), f"checkpoint-{self.state.global_step}")
            processes = self.args.world_size
            self._state_to_save.save(folder, self.args.process_index, processes, shared=self.args.should_save)
        super()._save_checkpoint(model, trial)

    def _save(self, output_dir: str | None = None, *args: Any, **kwargs: Any) -> None:
        folder = str(output_dir if output_dir is not None else self.args.output_dir)
        with card_kept(folder) if self.args.should_save else nullcontext():
            super()._save(output_dir, *args, **kwargs)
        if self.args.should_save:
            write_record(self, folder)
