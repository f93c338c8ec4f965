# SPDX-License-Identifier: Apache-2.0
"""The first passes of a training, forward and back, timed; the training ends before its first optimizer step."""

import copy
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback
from transformers.integrations import get_reporting_integration_callbacks

# The first warms up memory, kernels and a compiler, so it is not counted where there are others.
MICRO_BATCHES = 3


@dataclass(frozen=True)
class Plan:
    """
    How long a run is.

    Args:
        rows (`int`, *optional*):
            Of the training set, packed where it is. None: it streams.
        steps (`int`), steps_per_epoch (`int`, *optional*):
            Optimizer steps of the whole run, and of one epoch where that is known.
        epochs (`float`, *optional*):
            None where it streams.
    """

    rows: int | None
    steps: int
    steps_per_epoch: int | None
    epochs: float | None


@dataclass
class Trial:
    """
    What was measured of the first micro-batches.

    Args:
        seconds (`list[float]`), tokens (`list[int]`), counted (`list[int]`):
            Of each micro-batch: how long it took forward and back, its tokens without padding, and those that count. Over
            several processes: of the slowest in all, and of all.
        loss (`float`):
            Of all micro-batches together, as one optimizer step would have it.
        terms (`dict[str, float]`):
            Of the objective: each term before its weight.
        peak_bytes (`int`, *optional*):
            Most that the CUDA device held; without the optimizer's moments, which come with its first step.
    """

    seconds: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    counted: list[int] = field(default_factory=list)
    loss: float = float("nan")
    terms: dict[str, float] = field(default_factory=dict)
    peak_bytes: int | None = None

    @property
    def seconds_per_micro_batch(self) -> float:
        """Mean without the first, where there are others."""
        timed = self.seconds[1:] or self.seconds
        return sum(timed) / len(timed)


class _EnoughError(Exception):
    """Ends a training in its midst."""


class _BeforeTheOptimizer(TrainerCallback):
    """Ends a training before its first optimizer step."""

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        raise _EnoughError


def plan(trainer: Any) -> Plan:
    """
    Returns how long a trainer's run is.

    Args:
        trainer ([`~training.trainer.ContrastiveRobustTrainer`]):
            Built and not trained.
    """
    args = trainer.args
    with _random_state_kept():
        loader = trainer.get_train_dataloader()
        # transformers 5.17 to 5.24: the second is the steps of an epoch, the last those of the run.
        lengths = trainer.set_initial_training_values(args, loader)
    steps_per_epoch, steps = lengths[1], lengths[-1]
    try:
        rows = len(trainer.train_dataset)
    except TypeError:
        return Plan(None, steps, None, None)
    return Plan(rows, steps, steps_per_epoch, steps / steps_per_epoch if args.max_steps > 0 else args.num_train_epochs)


def why_no_trial(trainer: Any) -> str | None:
    """Returns why the passes of a run cannot be tried without training, as a sentence without its end, or None."""
    if trainer.is_deepspeed_enabled:
        return "DeepSpeed takes its optimizer step within the backward pass"
    return None


def run_trial(trainer: Any) -> Trial:
    """
    Runs the first micro-batches of a trainer's training, forward and back, and ends it before its first optimizer step.

    It is the training itself that is begun: its batches, precision, checkpointing and wrappers. No parameter moves, nothing is
    saved or reported, and random states, gradients, logs and what the objective remembers are afterwards as they were.

    Args:
        trainer ([`~training.trainer.ContrastiveRobustTrainer`]):
            Built and not trained.

    Raises:
        FloatingPointError: If a loss is not finite, as the training itself would.
        torch.OutOfMemoryError: As the training itself would.
    """
    trial, losses = Trial(), []
    inner_step = trainer.training_step

    def timed_step(model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        if len(trial.seconds) == MICRO_BATCHES:
            # Of a set that streams and is short, Trainer begins anew where an optimizer step would have to end.
            raise _EnoughError
        mask: Any = inputs.get("attention_mask")
        labels = inputs["labels"]
        plain = isinstance(mask, torch.Tensor) and mask.ndim == 2
        trial.tokens.append(int(mask.sum()) if plain else labels.numel())
        trial.counted.append(int((labels[:, 1:] != -100).sum()))
        begin = time.perf_counter()
        loss = inner_step(model, inputs, num_items_in_batch)
        losses.append(float(loss))  # waits for the device, with all that was queued before
        trial.seconds.append(time.perf_counter() - begin)
        return loss

    handler = trainer.callback_handler
    cuda = trainer.args.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    with _left_as_it_was(trainer):
        trainer.training_step = timed_step
        # The micro-batches of one optimizer step are all that can be run without taking one; the run is as long with them.
        args = trainer.args
        if args.max_steps > 0:
            args.max_steps = -(-args.max_steps * args.gradient_accumulation_steps // MICRO_BATCHES)
        args.gradient_accumulation_steps = MICRO_BATCHES
        reports = tuple(get_reporting_integration_callbacks(args.report_to))
        callbacks = handler.callbacks
        handler.callbacks = [*(one for one in callbacks if not isinstance(one, reports)), _BeforeTheOptimizer()]
        try:
            trainer.train()
        except _EnoughError:
            pass
        finally:
            handler.callbacks = callbacks
            del trainer.training_step
        trial.loss = sum(losses)
        if trainer.objective is not None:
            means = trainer._sums["train"].means(trainer.accelerator, trainer._log_names)
            trial.terms = {name: value for name, value in means.items() if name.endswith("_loss")}
    if cuda:
        trial.peak_bytes = torch.cuda.max_memory_allocated()
    return _over_processes(trial, trainer.accelerator)


def _over_processes(trial: Trial, accelerator: Any) -> Trial:
    if accelerator.num_processes == 1:
        return trial
    device, count = accelerator.device, accelerator.num_processes
    table = torch.tensor([trial.seconds, trial.tokens, trial.counted], device=device, dtype=torch.float32)
    every = accelerator.gather(table[None]).view(count, *table.shape)
    trial.seconds = every[:, 0].amax(0).tolist()
    trial.tokens, trial.counted = (every[:, place].sum(0).long().tolist() for place in (1, 2))
    trial.loss = float(accelerator.reduce(torch.tensor(trial.loss, device=device), reduction="mean"))
    return trial


@contextmanager
def _random_state_kept() -> Iterator[None]:
    python, others = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(others)


@contextmanager
def _left_as_it_was(trainer: Any) -> Iterator[None]:
    """Puts back what a training that is broken off has changed in its trainer."""
    args, model, objective = trainer.args, trainer.model, trainer.objective
    steps, accumulation = args.max_steps, args.gradient_accumulation_steps
    state, control = copy.copy(trainer.state), copy.copy(trainer.control)
    compiles = None if objective is None else objective._pays
    remembered = None if trainer._state_to_save is None else trainer._state_to_save.remember()
    noisy: Any = None if objective is None else trainer._extra_passes.noisy
    modes = [(module, module.training) for module in model.modules()]
    optimizer, scheduler, tokens = trainer.optimizer, trainer.lr_scheduler, trainer._total_train_tokens
    with _random_state_kept(), nullcontext() if noisy is None else noisy.counts_kept():
        try:
            yield
        finally:
            args.max_steps, args.gradient_accumulation_steps = steps, accumulation
            model.zero_grad(set_to_none=True)
            for module, mode in modes:
                module.training = mode
            if getattr(trainer, "neftune_hook_handle", None) is not None:
                trainer.neftune_hook_handle.remove()
            trainer.accelerator.free_memory()
            trainer.optimizer, trainer.lr_scheduler, trainer.model_wrapped = optimizer, scheduler, model
            trainer.state, trainer.control, trainer._total_train_tokens = state, control, tokens
            trainer.is_in_train = False
            trainer._metrics["train"].clear()
            if objective is not None:
                objective._pays = compiles
                trainer._sums["train"].clear()
                trainer._state_to_save.put_back(remembered)
