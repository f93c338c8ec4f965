# SPDX-License-Identifier: Apache-2.0
"""What `fit_check.py` does: training steps of rows of different lengths in an allocator that is given so much and no more."""

import gc
import sys
import tempfile
import time
from dataclasses import asdict
from typing import Any

import torch
from transformers import TrainerCallback

from cases import StepCase
from hf_ckt.fit.memory_model import CONTEXT_BYTES, GRANULE, FitCase, longest, peak_bytes
from step_worker import Memory, build_trainer, random_shape

_ON_CUDA = torch.cuda.is_available()


class Search:
    """
    The longest length that fits, by as few trials as may be: from a first guess outwards, then by halves.

    Args:
        first (`int`):
            Length to begin with.

    Example:

    >>> search = Search(640)
    >>> while (tokens := search.next()) is not None:
    ...     search.report(tokens, fits=tokens <= 700)
    >>> search.fits, search.fails
    (640, 704)
    """

    def __init__(self, first: int):
        self.first = max(GRANULE, first // GRANULE * GRANULE)
        self.fits = 0
        self.fails: int | None = None

    def next(self) -> int | None:
        """Returns the length to try next; None when nothing lies between what fits and what does not."""
        if self.fails is None:
            return self.first if not self.fits else self._whole(self.fits * 1.2, self.fits + GRANULE)
        if self.fails - self.fits <= GRANULE:
            return None
        guess = self.fails * 0.8 if not self.fits else (self.fits + self.fails) / 2
        return min(self._whole(guess, self.fits + GRANULE), self.fails - GRANULE)

    def report(self, tokens: int, fits: bool) -> None:
        """Takes down what came of a trial."""
        if fits:
            self.fits = max(self.fits, tokens)
        else:
            self.fails = min(self.fails or tokens, tokens)

    @staticmethod
    def _whole(tokens: float, least: int) -> int:
        return max(int(tokens) // GRANULE * GRANULE, least)


def measure_longest(case: StepCase, memory: float, trials: int, recompute: bool) -> dict[str, Any]:
    """
    Returns the longest row whose step with all terms fits, with what was predicted and every trial.

    On a GPU torch's allocator is capped at the card's memory less what the formula assumes for the context, which is not
    the allocator's. On a CPU, where nothing can be capped, a row fits if the process grew by no more than that.

    Args:
        case ([`StepCase`]):
            A random model, a batch of one row, with gradient checkpointing.
        memory (`float`):
            Bytes of the card.
        trials (`int`):
            Steps at most.
        recompute (`bool`):
            `noisy_view_recompute`.
    """
    fit = FitCase(random_shape(case), case.precision, recompute=recompute)
    predicted = longest(fit, memory)
    cap = memory - CONTEXT_BYTES if _ON_CUDA else memory
    if cap <= 0:
        raise ValueError(
            f"--memory-gb: {memory / 1e9:g} is no more than the context's {CONTEXT_BYTES / 1e9:g}, so no row could fit. "
            "Name a larger card."
        )
    if _ON_CUDA:
        total = torch.cuda.get_device_properties(0).total_memory
        if cap > total:
            raise ValueError(
                f"--memory-gb: {memory / 1e9:g} is more than this card's {total / 1e9:.1f}, so the cap would be the "
                "card's own. Name a smaller one."
            )
        torch.cuda.set_per_process_memory_fraction(cap / total)
    with tempfile.TemporaryDirectory(prefix="hf_ckt_fit_") as folder:
        job = {
            "variant": "hf_ckt_all_recomputed" if recompute else "hf_ckt_all",
            "case": asdict(case),
            "path": None,
            "steps": 1 + trials,
            "folder": folder,
            "compile": False,  # the formula is of plain tiles
            "double_quantization": True,  # and of scales that are quantized once more
        }
        rows = Rows(build_trainer(job), Search(predicted), trials, cap)
        rows.trainer.train()
    fitting = [one for one in rows.trials if one["fits"]]
    best = max(fitting, key=lambda one: one["tokens"], default=None)
    measured = best["tokens"] if best else 0
    return {
        "predicted_tokens": predicted,
        "measured_tokens": measured,
        "fails_tokens": rows.search.fails,
        "ratio": measured / predicted if predicted else 0.0,
        "peak_bytes": best["peak_bytes"] if best else None,
        "reserved_bytes": best["reserved_bytes"] if best else None,
        # Of the row that was measured, without the context: what the allocator should hold.
        "predicted_peak_bytes": peak_bytes(fit, measured) - CONTEXT_BYTES,
        "cap_bytes": cap,
        "context_bytes_assumed": CONTEXT_BYTES,
        "trials": rows.trials,
    }


class Rows(TrainerCallback):
    """
    Gives a trainer, after one step to warm up, a row of another length each step, until the search ends.

    Args:
        trainer (`Trainer`):
            Of `step_worker.build_trainer`.
        search ([`Search`]):
            Says the lengths.
        trials (`int`):
            Steps at most.
        cap (`float`):
            Bytes; on a CPU a step that takes more counts as one that does not fit.
    """

    def __init__(self, trainer: Any, search: Search, trials: int, cap: float):
        self.trainer, self.search, self.cap, self.left = trainer, search, cap, trials
        self.trials: list[dict[str, Any]] = []
        self.memory = Memory()
        self.warm = False
        self.loaded = 0 if _ON_CUDA else self.memory.held_bytes() or 0
        self._training_step = trainer.training_step
        trainer.training_step = self.training_step
        trainer.add_callback(self)

    def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """The trainer's own, on a row of the length that is due."""
        if not self.warm:
            self.warm = True  # the optimizer's states are made after this step
            return self._training_step(model, inputs, *args, **kwargs)
        tokens = self.search.next()
        assert tokens is not None, "training goes on after the search has ended"
        row = {name: _of_length(value, tokens) for name, value in inputs.items()}
        count = (row["labels"][:, 1:] != -100).sum()
        self._release()
        self.memory.reset()
        start = time.perf_counter()
        loss = torch.zeros((), device=count.device)
        try:
            loss = self._training_step(model, row, count)
            if _ON_CUDA:
                torch.cuda.synchronize()
            fits = True
        except torch.OutOfMemoryError:
            fits = False
        peak = self.memory.peak_bytes() - self.loaded
        fits = fits and (_ON_CUDA or peak <= self.cap)
        reserved = torch.cuda.max_memory_reserved() if _ON_CUDA else None
        self.trials.append(
            {
                "tokens": tokens,
                "fits": fits,
                "peak_bytes": peak,
                "reserved_bytes": reserved,
                "seconds": round(time.perf_counter() - start, 3),
            }
        )
        self.search.report(tokens, fits)
        word = "fits" if fits else "does not fit"
        print(f"{tokens:,} tokens: {word}, peak {peak / 1e9:.2f} GB", file=sys.stderr, flush=True)
        if not fits:
            model.zero_grad(set_to_none=True)
            self._release()
        return loss

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.search.next() is None or len(self.trials) >= self.left:
            control.should_training_stop = True

    def _release(self) -> None:
        gc.collect()
        if _ON_CUDA:
            torch.cuda.empty_cache()


def _of_length(value: Any, tokens: int) -> Any:
    """A batch's tensor (rows, length), repeated along the row and cut."""
    if not isinstance(value, torch.Tensor) or value.dim() != 2:
        return value
    return value.repeat(1, -(-tokens // value.shape[1]))[:, :tokens].contiguous()
