# SPDX-License-Identifier: Apache-2.0
"""What a run carries from step to step beside weights and optimizer, saved with each checkpoint."""

import json
import logging
import os
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..checkpoints import replace_file
from ..noise.noisy_view import NoisyView
from ..objective.budget import ConsistencyBudget
from ..objective.candidates import Contrast
from .manifest import compare_manifests

logger = logging.getLogger(__name__)

# One for the whole run, and one for each process.
_SHARED_FILE = "hf_ckt_state.safetensors"
_RANK_FILE = "hf_ckt_state_{rank}.safetensors"


@dataclass
class TrainingState:
    """
    The parts of an objective that remember.

    The budget's multiplier and the teacher are the run's, and are saved once. Queue and noise are each process's own.
    Where a run goes on with another number of processes, each takes those of the process with its number, counted anew
    from 0 where there were fewer: more processes than before begin with copies, and fewer drop the rest.

    Args:
        contrast ([`~objective.candidates.Contrast`], *optional*):
            Its queue of past teacher states, with their sides where these are known.
        noisy ([`~noise.noisy_view.NoisyView`], *optional*):
            The noise that its next search begins at.
        budget ([`~objective.budget.ConsistencyBudget`], *optional*):
            Its multiplier.
        teacher (`dict`, *optional*):
            What the teacher is known by ([`~teachers.base.Teacher.manifest`]), whose states the queue holds.
    """

    contrast: Contrast | None = None
    noisy: NoisyView | None = None
    budget: ConsistencyBudget | None = None
    teacher: dict[str, Any] | None = None

    def save(self, folder: str, rank: int, processes: int = 1, *, shared: bool | None = None) -> None:
        """
        Writes the state of a process into a checkpoint's folder, if there is any.

        Args:
            folder (`str`):
                The checkpoint's.
            rank (`int`), processes (`int`, *optional*, defaults to `1`):
                Which process it is, of how many.
            shared (`bool`, *optional*):
                Whether it writes what is the run's too. None: the first does.
        """
        states, sides = self._queue()
        noise = None if self.noisy is None else self.noisy.previous
        own = {"contrastive_queue": states, "contrastive_queue_sides": sides, "search_noise": noise}
        _write(folder, _RANK_FILE.format(rank=rank), own, {})
        if shared if shared is not None else rank == 0:
            multiplier = None if self.budget is None else torch.tensor(self.budget.multiplier, dtype=torch.float64)
            known = {} if self.teacher is None else {"teacher": json.dumps(self.teacher)}
            if any(value is not None for value in own.values()):
                known["processes"] = str(processes)
            _write(folder, _SHARED_FILE, {"consistency_multiplier": multiplier}, known)

    def restore(self, folder: str, rank: int, processes: int = 1) -> None:
        """
        Reads the state of a process back; what a checkpoint does not hold stays as it is.

        Raises:
            ValueError: If the checkpoint's queue holds the states of another teacher.
        """
        shared, known = _read(os.path.join(folder, _SHARED_FILE))
        before = int(known.get("processes", processes))
        own, _ = _read(os.path.join(folder, _RANK_FILE.format(rank=rank % before)))
        if before != processes and own and rank == 0:
            logger.warning(
                "resume_from_checkpoint: saved by %d processes and resumed by %d, so each goes on with the teacher states "
                "and the noise of the process with its number, counted anew from 0 where there were fewer.",
                before,
                processes,
            )
        queue = None if self.contrast is None else self.contrast.queue
        queued = own.get("contrastive_queue") if queue is not None and queue.size else None
        self._compare_teachers(known, queued is not None)
        if queue is not None and queued is not None:
            queue.states = queued[-queue.size :].clone()
            sides = own.get("contrastive_queue_sides")  # a checkpoint of before there were sides has none
            queue.sides = None if sides is None else sides[-queue.size :].clone()
        if self.noisy is not None and "search_noise" in own:
            self.noisy.previous = own["search_noise"]
        if self.budget is not None and "consistency_multiplier" in shared:
            self.budget.multiplier = float(shared["consistency_multiplier"])

    def _compare_teachers(self, known: dict[str, str], queued: bool) -> None:
        if self.teacher is None or "teacher" not in known:
            return
        changes = compare_manifests(json.loads(known["teacher"]), self.teacher)
        if changes.same:
            logger.warning(
                "resume_from_checkpoint: %s, with the same weights otherwise. What it says differs by rounding from here on.",
                "; ".join(changes.same),
            )
        if not changes.others:
            return
        change = f"resume_from_checkpoint: {'; '.join(changes.others)}"
        if queued:
            raise ValueError(
                f"{change}. The queue holds states of the first, which would be read with the head of the second. Pass "
                "the checkpoint's teacher, or contrastive_queue_size=0 to go on without the queue."
            )
        logger.warning("%s. From here on the student learns from the second.", change)

    def _queue(self) -> tuple[Tensor | None, Tensor | None]:
        return (None, None) if self.contrast is None else (self.contrast.queue.states, self.contrast.queue.sides)

    def remember(self) -> dict[str, Any]:
        """Returns what [`put_back`] takes. No tensor is copied: parts exchange theirs and write into none."""
        return {
            "queue": self._queue(),
            "noise": None if self.noisy is None else self.noisy.previous,
            "multiplier": None if self.budget is None else self.budget.multiplier,
        }

    def put_back(self, remembered: dict[str, Any]) -> None:
        """Sets every part to what it was when [`remember`] was called, and drops what was noted of a step since."""
        if self.contrast is not None:
            self.contrast.queue.states, self.contrast.queue.sides = remembered["queue"]
        if self.noisy is not None:
            self.noisy.previous = remembered["noise"]
        if self.budget is not None:
            self.budget.multiplier = remembered["multiplier"]
            self.budget.forget()

    def forget_step(self) -> None:
        """Drops what a skipped step left: states that are not finite would outlive every later step."""
        if self.contrast is not None:
            self.contrast.queue.clear()
        if self.noisy is not None:
            self.noisy.previous = None
        if self.budget is not None:
            self.budget.forget()


def _write(folder: str, name: str, tensors: dict[str, Tensor | None], known: dict[str, str]) -> None:
    held = {key: tensor.cpu().contiguous() for key, tensor in tensors.items() if tensor is not None}
    if held or known:
        replace_file(os.path.join(folder, name), lambda aside: save_file(held, aside, metadata=known or None))


def _read(path: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file; none of either where there is no file."""
    if not os.path.exists(path):
        return {}, {}
    with safe_open(path, framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
