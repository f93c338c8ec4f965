# SPDX-License-Identifier: Apache-2.0
"""What a run carries from step to step beside weights and optimizer, saved with each checkpoint."""

import os
from dataclasses import dataclass

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..checkpoints import replace_file
from ..noise.noisy_view import NoisyView
from ..objective.budget import ConsistencyBudget
from ..objective.candidates import Contrast

_FILE = "hf_ckt_state_{rank}.safetensors"


@dataclass
class TrainingState:
    """
    The parts of an objective that remember.

    Args:
        contrast ([`~objective.candidates.Contrast`], *optional*):
            Its queue of past teacher states.
        noisy ([`~noise.noisy_view.NoisyView`], *optional*):
            The noise that its next search begins at.
        budget ([`~objective.budget.ConsistencyBudget`], *optional*):
            Its multiplier.
    """

    contrast: Contrast | None = None
    noisy: NoisyView | None = None
    budget: ConsistencyBudget | None = None

    def save(self, folder: str, rank: int) -> None:
        """Writes the state of a process into a checkpoint's folder, if there is any."""
        tensors: dict[str, Tensor | None] = {}
        if self.contrast is not None:
            tensors["contrastive_queue"] = self.contrast.queue.states
        if self.noisy is not None:
            tensors["search_noise"] = self.noisy.previous
        if self.budget is not None:
            tensors["consistency_multiplier"] = torch.tensor(self.budget.multiplier, dtype=torch.float64)
        held = {name: tensor.cpu().contiguous() for name, tensor in tensors.items() if tensor is not None}
        if held:
            replace_file(os.path.join(folder, _FILE.format(rank=rank)), lambda aside: save_file(held, aside))

    def restore(self, folder: str, rank: int) -> None:
        """Reads the state of a process back; what a checkpoint does not hold stays as it is."""
        path = os.path.join(folder, _FILE.format(rank=rank))
        held = load_file(path) if os.path.exists(path) else {}
        if self.contrast is not None and "contrastive_queue" in held:
            self.contrast.queue.states = held["contrastive_queue"]
        if self.noisy is not None and "search_noise" in held:
            self.noisy.previous = held["search_noise"]
        if self.budget is not None and "consistency_multiplier" in held:
            self.budget.multiplier = float(held["consistency_multiplier"])

    def forget_step(self) -> None:
        """Drops what a skipped step left: states that are not finite would outlive every later step."""
        if self.contrast is not None:
            self.contrast.queue.clear()
        if self.noisy is not None:
            self.noisy.previous = None
        if self.budget is not None:
            self.budget.forget()
