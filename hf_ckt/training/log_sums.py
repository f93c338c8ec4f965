# SPDX-License-Identifier: Apache-2.0
"""Sums of what is logged, kept on the device between two logs, and the guard against losses that are not finite."""

from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import TrainerCallback


class LogSums:
    """
    Running sums and counts by name, so that a mean is over all tokens of a logging window and of all ranks.

    Nothing is read back to the host before [`means`] is called.

    Args:
        skip_nonfinite (`bool`, *optional*, defaults to `False`):
            Whether a sum that is not finite is left out with its count, as its step is left out of the training: it would
            make the whole window's mean NaN.
    """

    def __init__(self, skip_nonfinite: bool = False) -> None:
        self.skip_nonfinite = skip_nonfinite
        self._sums: dict[str, Tensor] = {}

    def add(self, sums: dict[str, Tensor]) -> None:
        """Adds `(2,)` tensors of sum and count."""
        for name, value in sums.items():
            value = value.detach().to(_widest(value.device))
            if self.skip_nonfinite:
                value = torch.where(value.isfinite().all(), value, 0)
            self._sums[name] = value if name not in self._sums else self._sums[name] + value

    def means(self, accelerator: Accelerator, names: list[str]) -> dict[str, float]:
        """
        Returns sum / count of each name that was counted on some rank, and starts again from 0.

        Args:
            accelerator (`Accelerator`):
                Reduces over the ranks.
            names (`list[str]`):
                All names that any rank may have added, in one order on every rank.
        """
        zero = torch.zeros(2, dtype=_widest(accelerator.device), device=accelerator.device)
        table = torch.stack([self._sums.get(name, zero).to(accelerator.device) for name in names])
        self._sums.clear()
        if accelerator.num_processes > 1:
            table = accelerator.reduce(table, reduction="sum")
        return {name: total / count for name, (total, count) in zip(names, table.tolist(), strict=True) if count > 0}

    def clear(self) -> None:
        """Forgets all sums."""
        self._sums.clear()

    def total(self, accelerator: Accelerator, name: str) -> int:
        """Returns the sum under a name over all ranks, as a whole number, and starts it again from 0."""
        value = self._sums.pop(name, torch.zeros(2, dtype=_widest(accelerator.device), device=accelerator.device))[0]
        return int(accelerator.reduce(value, reduction="sum") if accelerator.num_processes > 1 else value)


def _widest(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64  # MPS has no float64


class NonFiniteGuard(TrainerCallback):
    """
    Stops, or skips, an optimizer step whose losses were NaN or infinite on any rank.

    The flags stay on the device over the micro-batches; one number is read per optimizer step.

    Args:
        accelerator (`Accelerator`):
            Brings the ranks to one verdict.
        names (`list[str]`):
            Names of the terms, in one order on every rank.
        action (`str`):
            `raise` or `skip`.
        on_skip (`Callable`, *optional*):
            Called when a step is skipped: forgets what the bad batches left elsewhere.
    """

    def __init__(
        self, accelerator: Accelerator, names: list[str], action: str, on_skip: Callable[[], None] | None = None
    ):
        self.accelerator, self.names, self.action, self.on_skip = accelerator, names, action, on_skip
        self.skipped = 0
        self._flags: Tensor | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # An attempt that was broken off may have left a flag up.
        self._flags, self.skipped = None, 0

    def watch(self, values: dict[str, Tensor]) -> None:
        """Notes which values are not finite."""
        device = self.accelerator.device
        finite = torch.zeros((), dtype=torch.bool, device=device)
        flags = torch.stack(
            [
                ~torch.isfinite(values[name].detach()).all().to(device) if name in values else finite
                for name in self.names
            ]
        )
        self._flags = flags if self._flags is None else self._flags | flags

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._flags is None:
            return
        flags, self._flags = self._flags.float(), None
        if self.accelerator.num_processes > 1:
            flags = self.accelerator.reduce(flags, reduction="sum")
        bad = [name for name, flag in zip(self.names, flags.tolist(), strict=True) if flag]
        if not bad:
            return
        what = f"{', '.join(bad)}: not finite at step {state.global_step + 1}"
        if self.action == "raise":
            raise FloatingPointError(
                f"{what}. Stopped before the optimizer step, so the weights are still those of step "
                f"{state.global_step}. Lower learning_rate or that weight, or set nonfinite_loss='skip'."
            )
        self.skipped += 1
        kwargs["optimizer"].zero_grad()
        if self.on_skip is not None:
            self.on_skip()
        if self.accelerator.is_main_process:
            print(f"{what}. Skipped that optimizer step ({self.skipped} so far).")
