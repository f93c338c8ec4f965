# SPDX-License-Identifier: Apache-2.0
"""The consistency weight as a Lagrange multiplier: as large as it takes to keep the divergence within a budget."""

import logging
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import TrainerCallback

logger = logging.getLogger(__name__)


class ConsistencyBudget(TrainerCallback):
    r"""
    Dual ascent on the multiplier of the constraint divergence <= budget.

        violation  <- min(divergence / budget - 1, 1)                              at least -1, at a divergence of 0
        multiplier <- min(max(multiplier + rate * violation, 0), maximum)          after each optimizer step

    The primal step is the optimizer's own, on the task's and the other terms plus multiplier * divergence. Where the
    divergence stays under the budget by itself, the multiplier falls to 0 and the constraint costs nothing. The
    divergence is the mean over the tokens of the step on all ranks; steps without a noisy view leave it as it is.

    The multiplier sums up what it sees, so a spell far above the budget, as at the start of training or under a budget
    that cannot be kept, would wind it up to where it stays for long after the divergence is down. Hence the two bounds:
    no step raises it by more than a step at divergence 0 lowers it, and at the maximum it stays, without a debt to work
    off. docs/budget.svg draws both.

    Source: dual ascent for constrained learning, as in Chamon and Ribeiro 2020, https://huggingface.co/papers/2006.05487.
    Differs: the violation is relative to the budget, so that `rate` has no unit, and bounded on both sides.

    Args:
        accelerator (`Accelerator`):
            Sums over the ranks.
        budget (`float`):
            Divergence that is allowed, nats per token, > 0.
        rate (`float`):
            Most that a step changes the multiplier by, > 0: upwards where the divergence is twice the budget or more.
        multiplier (`float`):
            Where it starts, >= 0.
        maximum (`float`, *optional*, defaults to `10.0`):
            Where it stops, > 0.
    """

    # What else is asked of a weight's schedule.
    ever_on = True
    shape = "dual ascent"

    def __init__(self, accelerator: Accelerator, budget: float, rate: float, multiplier: float, maximum: float = 10.0):
        self.accelerator, self.budget, self.rate, self.multiplier = accelerator, budget, rate, multiplier
        self.maximum = maximum
        self.weight = multiplier
        """Where the multiplier started."""
        self._said = False
        self._measured: Tensor | None = None

    def at(self, progress: float) -> float:
        """Returns the multiplier, whatever the training progress."""
        return self.multiplier

    @property
    def in_evaluation(self) -> float:
        """An evaluation's weight: where the multiplier started, so that two of them can be compared."""
        return self.weight

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
            self._move(total / count)

    def _move(self, divergence: float) -> None:
        raised = self.multiplier + self.rate * min(divergence / self.budget - 1, 1.0)
        self.multiplier = min(max(raised, 0.0), self.maximum)
        if raised > self.maximum and not self._said and self.accelerator.is_main_process:
            self._said = True
            logger.warning(
                "consistency_budget: the weight has reached its maximum of %g, and the divergence of %.3g nats per token "
                "still exceeds the budget of %g. Raise consistency_budget, or consistency_budget_maximum.",
                self.maximum,
                divergence,
                self.budget,
            )
