# SPDX-License-Identifier: Apache-2.0
"""The one place that weighs, counts and normalises: from hidden states and heads to the loss and the log's sums."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .candidates import Contrast
from .discovery import load_part, part_names
from .kernels.chunked_linear import TileProgram, run_tiles
from .losses.base import ContrastiveLoss, ParameterLoss, TokenLoss
from .schedules import Schedule
from .views import Batch, LinearHead

ROLES = ("task", "distillation", "contrastive", "consistency", "regularization")


@dataclass
class Term:
    """
    A role that is on.

    Args:
        loss ([`~losses.base.TokenLoss`], [`~losses.base.ContrastiveLoss`] or [`~losses.base.ParameterLoss`]):
            What is minimised.
        schedule ([`~schedules.Schedule`]):
            Its weight.
    """

    loss: Any
    schedule: Schedule


@dataclass
class Scale:
    """
    What the sums of a micro-batch are divided by.

    Args:
        progress (`float`):
            Training progress in [0, 1], for the schedules.
        num_items (`torch.Tensor` or `int`, *optional*):
            Kept tokens of the whole accumulated batch over all ranks; `None`: of this micro-batch.
        processes (`int`):
            Factor that undoes DDP's averaging of gradients; 1 when `num_items` counts this rank alone.
        micro_batches (`int`):
            Micro-batches over which the terms that are means are averaged.
    """

    progress: float
    num_items: Tensor | int | None = None
    processes: int = 1
    micro_batches: int = 1


@dataclass
class StudentStates:
    """
    What the passes over a batch left: hidden states at the kept positions and heads, by view.

    Args:
        hidden (`dict[str, torch.Tensor]`), heads (`dict[str, LinearHead]`):
            `(N, D)` and the head, for `student`, `noisy`, `teacher`, `reference`.
        rejected (`tuple[Batch, torch.Tensor]`, *optional*):
            The teacher's reading of the rejected answers.
    """

    hidden: dict[str, Tensor]
    heads: dict[str, LinearHead]
    rejected: tuple[Batch, Tensor] | None = None


@dataclass
class ObjectiveOutput:
    """
    Loss and log of a micro-batch.

    Args:
        loss (`torch.Tensor`):
            Scalar to differentiate.
        sums (`dict[str, torch.Tensor]`):
            By logged name: `(2,)`, a sum and the count it is to be divided by; detached.
    """

    loss: Tensor
    sums: dict[str, Tensor] = field(default_factory=dict)


class Objective:
    r"""
    The weighted sum of the active terms.

        L = w_task L_task + w_dist L_dist + w_con L_con + w_cons L_cons + w_reg L_reg

    Losses per token are summed over the kept tokens and divided by `num_items`, so that a token's weight depends on
    neither padding, packing nor how a batch is split. The contrastive term and penalties on parameters are means over
    the micro-batches.

    Source: arXiv 2510.27077 for the parts (distillation, robustness, regularization over a frozen backbone; only its
    abstract was at hand); the formulas are this package's own, from the works that each loss names.

    Args:
        terms (`Mapping[str, Term]`):
            Role to term; roles that are off are absent.
        contrast ([`~candidates.Contrast`], *optional*):
            Needed when the contrastive role is on.
        chunk_size (`int`, *optional*), compile (`bool`, *optional*):
            See [`~kernels.chunked_token_losses`].
    """

    def __init__(
        self,
        terms: Mapping[str, Term],
        *,
        contrast: Contrast | None = None,
        chunk_size: int | None = None,
        compile: bool | None = None,
    ):
        self.terms = {role: terms[role] for role in ROLES if role in terms}
        self.contrast, self.chunk_size, self.compile = contrast, chunk_size, compile
        token_terms = {role: term for role, term in self.terms.items() if isinstance(term.loss, TokenLoss)}
        views = frozenset({"student"}).union(*(term.loss.needs for term in token_terms.values()))
        if "contrastive" in self.terms:
            views |= {"teacher"}
        self.views: frozenset[str] = views
        metrics = [(name, load_part("metrics", name)()) for name in part_names("metrics")]
        self._program = TileProgram(
            [(f"{role}_loss", term.loss) for role, term in token_terms.items()],
            [(name, metric) for name, metric in metrics if metric.needs <= views],
        )
        self._token_roles = list(token_terms)
        metric_names = [name for name, _ in self._program.metrics]
        self.log_names: list[str] = [*(f"{role}_loss" for role in self.terms), *metric_names]
        """All names that `sums` may hold."""

    def __call__(
        self, states: StudentStates, batch: Batch, model: torch.nn.Module, scale: Scale, *, training: bool
    ) -> ObjectiveOutput:
        """
        Computes the loss of a micro-batch.

        Args:
            states ([`StudentStates`]):
                Hidden states and heads.
            batch ([`~views.Batch`]):
                Kept positions and labels.
            model (`torch.nn.Module`):
                The student, for penalties on its parameters.
            scale ([`Scale`]):
                Progress and normalisation.
            training (`bool`):
                Whether the batch is trained on; an evaluation leaves the queue alone.
        """
        weights = {role: term.schedule.at(scale.progress) for role, term in self.terms.items()}
        tiles = run_tiles(
            self._program,
            torch.tensor([weights[role] for role in self._token_roles], dtype=torch.float64),
            states.hidden,
            states.heads,
            batch.kept_labels,
            num_items=scale.num_items,
            chunk_size=self.chunk_size,
            compile=self.compile,
        )
        loss = tiles.total * scale.processes
        sums = {
            name: _sum_and_count(value, tiles.num_kept)
            for name, value in (*tiles.terms.items(), *tiles.metrics.items())
        }
        # Autocast would round similarities and norms to its own dtype, however wide their inputs are.
        with torch.autocast(loss.device.type, enabled=False):
            for role, value in self._means(states, batch, model, training):
                loss = loss + weights[role] * value.to(loss) / scale.micro_batches
                sums[f"{role}_loss"] = _sum_and_count(value.detach(), 1)
        return ObjectiveOutput(loss, sums)

    def _means(self, states: StudentStates, batch: Batch, model: torch.nn.Module, training: bool):
        """Yields role and value of the terms that are means per micro-batch."""
        for role, term in self.terms.items():
            if isinstance(term.loss, ContrastiveLoss):
                assert self.contrast is not None
                similarities = self.contrast.similarities(
                    batch,
                    states.hidden["student"],
                    states.heads["student"],
                    states.hidden["teacher"],
                    states.heads["teacher"],
                    rejected=states.rejected,
                    update_queue=training,
                )
                if similarities is not None:
                    yield role, term.loss.per_anchor(similarities).mean()
            elif isinstance(term.loss, ParameterLoss):
                yield role, term.loss.penalty(model)


def _sum_and_count(value: Tensor, count: int) -> Tensor:
    return torch.stack([value, value.new_full((), count)])
