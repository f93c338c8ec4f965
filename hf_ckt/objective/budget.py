# SPDX-License-Identifier: Apache-2.0
"""The consistency weight as a Lagrange multiplier: as large as it takes to keep the divergence within a budget."""

from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import TrainerCallback


class ConsistencyBudget(TrainerCallback):
    r"""
    Dual ascent on the multiplier of the constraint divergence <= budget.

        multiplier <- max(0, multiplier + rate * (divergence / budget - 1))        after each optimizer step

    The primal step is the optimizer's own, on the task's and the other terms plus multiplier * divergence. Where the
    divergence stays under the budget by itself, the multiplier falls to 0 and the constraint costs nothing. The
    divergence is the mean over the tokens of the step on all ranks; steps without a noisy view leave it as it is.

    Source: dual ascent for constrained learning, as in Chamon and Ribeiro 2020, https://huggingface.co/papers/2006.05487.
    Differs: the violation is relative to the budget, so that `rate` has no unit.

    Args:
        accelerator (`Accelerator`):
            Sums over the ranks.
        budget (`float`):
            Divergence that is allowed, nats per token, > 0.
        rate (`float`):
            Change of the multiplier in a step whose divergence is twice the budget, > 0.
        multiplier (`float`):
            Where it starts, >= 0.
    """

    # What else is asked of a weight's schedule.
    ever_on = True
    shape = "dual ascent"

    def __init__(self, accelerator: Accelerator, budget: float, rate: float, multiplier: float):
        self.accelerator, self.budget, self.rate, self.multiplier = accelerator, budget, rate, multiplier
        self.weight = multiplier
        """Where the multiplier started."""
        self._measured: Tensor | None = None

    def at(self, progress: float) -> float:
        """Returns the multiplier, whatever the training progress."""
        return self.multiplier

    def watch(self, sums: dict[str, Tensor]) -> None:
        """Notes a micro-batch's divergence: `consistency_loss`, a sum and its count; a batch without one is no news."""
        measured = sums.get("consistency_loss")
        if measured is not None:
            self._measured = measured if self._measured is None else self._measured + measured

    def forget(self) -> None:
        """Drops what was noted since the last step: of a step that was skipped."""
        self._measured = None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        several = self.accelerator.num_processes > 1
        if self._measured is None and not several:
            return
        measured = torch.zeros(2, device=self.accelerator.device) if self._measured is None else self._measured
        self.forget()
        if several:
            measured = self.accelerator.reduce(measured.float(), reduction="sum")
        total, count = measured.tolist()
        if count:
            self.multiplier = max(0.0, self.multiplier + self.rate * (total / count / self.budget - 1))
