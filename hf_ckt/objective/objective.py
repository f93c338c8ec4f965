# SPDX-License-Identifier: Apache-2.0
"""The one place that weighs, counts and normalises: from hidden states and heads to the loss and the log's sums."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..discovery import load_part, part_names
from ..kernels.chunked_linear import TokenLossOutput, run_tiles
from ..kernels.compilation import pays_to_compile
from ..kernels.signals import SECOND, MixedSignal, TopKSignal
from ..losses.base import ContrastiveLoss, ParameterLoss, TokenLoss
from ..models.batch import Batch
from ..token_weights.base import TokenWeights
from .candidates import Contrast
from .partition import HiddenStates, Part, Partition
from .schedules import Schedule
from .token_weighting import TokenWeighting

ROLES = ("task", "distillation", "contrastive", "consistency", "regularization")


@dataclass
class Term:
    """
    A role that is on.

    Args:
        loss ([`~losses.base.TokenLoss`], [`~losses.base.ContrastiveLoss`] or [`~losses.base.ParameterLoss`]):
            What is minimised.
        schedule ([`~objective.schedules.Schedule`]):
            Its weight.
        token_weights ([`~token_weights.base.TokenWeights`], *optional*):
            How much each token counts in a token loss. None: all alike.
    """

    loss: Any
    schedule: Schedule
    token_weights: TokenWeights | None = None


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
        horizon (`int`, *optional*):
            Micro-batches of the whole training run on this rank: decides whether compiling pays. `None`: not known.
    """

    progress: float
    num_items: Tensor | int | None = None
    processes: int = 1
    micro_batches: int = 1
    horizon: int | None = None


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
    neither padding, packing nor how a batch is split, unless a role weighs its tokens: then each is multiplied by a factor
    with mean 1 over the micro-batch ([`~objective.token_weighting.TokenWeighting`]), and what is logged is the mean of the
    products. The contrastive term and penalties on parameters are means over the micro-batches.

    Source: arXiv 2510.27077 for the parts (distillation, robustness, regularization over a frozen backbone; only its
    abstract was at hand); the formulas are this package's own, from the works that each loss names.

    Args:
        terms (`Mapping[str, Term]`):
            Role to term; roles that are off are absent.
        contrast ([`~objective.candidates.Contrast`], *optional*):
            Needed when the contrastive role is on.
        teacher_names (`Sequence[str]`, *optional*):
            Of the teachers whose shares of a sum are logged beside it, as `distillation_loss/<name>`.
        chunk_size (`int`, *optional*), compile (`bool`, *optional*):
            See [`~kernels.chunked_token_losses`].
    """

    def __init__(
        self,
        terms: Mapping[str, Term],
        *,
        contrast: Contrast | None = None,
        teacher_names: Sequence[str] = (),
        chunk_size: int | None = None,
        compile: bool | None = None,
    ):
        self.terms = {role: terms[role] for role in ROLES if role in terms}
        self.contrast, self.chunk_size, self.compile = contrast, chunk_size, compile
        self._pays: bool | None = None
        token_terms = {role: term for role, term in self.terms.items() if isinstance(term.loss, TokenLoss)}
        views = frozenset({"student"}).union(*(term.loss.needs for term in token_terms.values()))
        if "contrastive" in self.terms:
            views |= {"teacher"}
        self._weighting = TokenWeighting(
            {role: term.token_weights for role, term in token_terms.items() if term.token_weights is not None},
            [role for role, term in token_terms.items() if "teacher" in term.loss.needs],
        )
        views |= self._weighting.needs
        self.views: frozenset[str] = views
        metrics = [(name, load_part("metrics", name)()) for name in part_names("metrics")]
        named_losses = [(f"{role}_loss", term.loss) for role, term in token_terms.items()]
        metrics = [(name, metric) for name, metric in metrics if metric.logged and metric.needs <= views]
        self._partition = Partition(named_losses, metrics)
        self._searched = Partition([one for one in named_losses if one[0] == "consistency_loss"])
        read = [name for name, part in (*named_losses, *metrics) if "teacher" in part.needs]
        self.log_names: list[str] = [
            *(f"{role}_loss" for role in self.terms),
            *(name for name, _ in metrics),
            *(f"{name}/{teacher}" for teacher in teacher_names for name in read),
        ]
        """All names that `sums` may hold."""

    def __call__(
        self, states: HiddenStates, batch: Batch, model: torch.nn.Module, scale: Scale, *, training: bool
    ) -> ObjectiveOutput:
        """
        Computes the loss of a micro-batch.

        Args:
            states ([`~objective.partition.HiddenStates`]):
                Hidden states and heads.
            batch ([`~models.batch.Batch`]):
                Kept positions and labels.
            model (`torch.nn.Module`):
                The student, for penalties on its parameters.
            scale ([`Scale`]):
                Progress and normalisation.
            training (`bool`):
                Whether the batch is trained on; an evaluation has fixed weights and leaves the queue alone.
        """
        weights = {
            role: term.schedule.at(scale.progress) if training else term.schedule.in_evaluation
            for role, term in self.terms.items()
        }
        self._decide(states, batch, scale, training)
        if self._weighting.weights:
            weights_of = self._weighting(states, batch, chunk_size=self.chunk_size, compile=self.compiles)
            states = replace(states, token_weights=weights_of)
        num_items = len(batch.kept) if scale.num_items is None else scale.num_items
        loss: Any = 0.0
        sums: dict[str, Tensor] = {}
        for part in self._partition.parts(states, batch.kept_labels):
            shares = [states.noisy.probability if "noisy" in one.needs else 1.0 for _, one in part.program.losses]
            tiles = run_tiles(
                part.program,
                torch.tensor(
                    [
                        weights[name.removesuffix("_loss")] / share
                        for (name, _), share in zip(part.program.losses, shares, strict=True)
                    ],
                    dtype=torch.float64,
                ),
                part.hidden,
                part.heads,
                part.labels,
                num_items=num_items,
                given=part.given,
                token_weights=part.token_weights,
                chunk_size=self.chunk_size,
                compile=self.compiles,
            )
            loss = loss + tiles.total * scale.processes
            for name, counted in _counted(tiles, part):
                sums[name] = sums[name] + counted if name in sums else counted
        # Autocast would round similarities and norms to its own dtype, however wide their inputs are.
        with torch.autocast(loss.device.type, enabled=False):
            for role, value in self._means(states, batch, model, training):
                loss = loss + weights[role] * value.to(loss) / scale.micro_batches
                sums[f"{role}_loss"] = _sum_and_count(value.detach(), 1)
        return ObjectiveOutput(loss, sums)

    @property
    def reads_layers(self) -> bool:
        """Whether the student's states in all layers are asked for."""
        return self.contrast is not None and self.contrast.level == "state"

    def begin(self, model: torch.nn.Module) -> None:
        """Tells penalties on parameters, once, what the student is before it trains."""
        for term in self.terms.values():
            if isinstance(term.loss, ParameterLoss):
                term.loss.begin(model)

    def divergence(self, states: HiddenStates, labels: Tensor) -> Tensor:
        """
        Returns the sum over positions of what the consistency term measures, in nats: what a search for noise ascends.

        Args:
            states ([`~objective.partition.HiddenStates`]):
                With the reading of the perturbed input so far.
            labels (`torch.Tensor` of shape `(N,)`):
                Next-token ids.
        """
        found = [
            run_tiles(
                part.program,
                torch.ones(len(part.program.losses), dtype=torch.float64),
                part.hidden,
                {name: head.detach() for name, head in part.heads.items()},
                part.labels,
                num_items=1,
                given=part.given,
                token_weights=part.token_weights,
                chunk_size=self.chunk_size,
                compile=self.compiles,
            ).total
            for part in self._searched.parts(states, labels)
            if part.program.losses
        ]
        # Where no teacher speaks there is nothing to ascend, and still a graph.
        return sum(found[1:], found[0]) if found else states.noisy.states[:0].sum()

    def _decide(self, states: HiddenStates, batch: Batch, scale: Scale, training: bool) -> None:
        """Decides with the first training batch, for the whole run, whether compiling pays, if that was left open."""
        if self.compile is not None or self._pays is not None:
            return
        if training and scale.horizon is not None and len(batch.kept):
            head = states.heads["student"].weight
            # One projection for each view; the self-teacher and the reference are one.
            hidden = {**states.hidden, "noisy": states.noisy.states}
            exact = [part.signal for part in states.teacher if not isinstance(part.signal, TopKSignal)]
            needs = self._partition.needs
            if exact:
                hidden["teacher"] = exact[0].hidden
            if exact and isinstance(exact[0], MixedSignal) and "teacher" in needs:
                needs, hidden[SECOND] = needs | {SECOND}, exact[0].second.hidden
            views = len({id(hidden[name]) for name in needs if name in hidden})
            # Where some positions are perturbed and others not, there are two programs to compile.
            share = 1.0 if states.noisy.probability == 1 else 0.5
            elements = share * len(batch.kept) * scale.horizon * head.shape[0] * views
            self._pays = pays_to_compile(int(elements), head.device)

    @property
    def compiles(self) -> bool:
        """Whether tiles run through `torch.compile`: what was set, or what was decided; not before that."""
        return bool(self._pays) if self.compile is None else self.compile

    def _means(self, states: HiddenStates, batch: Batch, model: torch.nn.Module, training: bool):
        """Yields role and value of the terms that are means per micro-batch."""
        for role, term in self.terms.items():
            if isinstance(term.loss, ContrastiveLoss):
                assert self.contrast is not None
                similarities = self.contrast.similarities(
                    batch,
                    states.hidden["student"],
                    states.heads["student"],
                    states.teacher,
                    counts=states.role_masks.get(role),
                    rejected=states.rejected,
                    use_queue=training,
                    hidden_states=states.layers,
                )
                if similarities is not None:
                    yield role, term.loss.per_anchor(similarities).mean()
            elif isinstance(term.loss, ParameterLoss):
                yield role, term.loss.penalty(model)


def _counted(tiles: TokenLossOutput, part: Part) -> Iterator[tuple[str, Tensor]]:
    """Yields what a part adds to the sums that are logged: of each name, and of the teacher's share in it."""
    read = {name for name, one in (*part.program.losses, *part.program.metrics) if "teacher" in one.needs}
    for name, value in (*tiles.terms.items(), *tiles.metrics.items()):
        weight = part.token_weights.get(name)
        count = value.new_full((), tiles.num_kept) if weight is None else weight.sum().to(value)
        yield name, torch.stack([value, count])
        if part.teacher and name in read:
            yield f"{name}/{part.teacher}", torch.stack([value, count])


def _sum_and_count(value: Tensor, count: int) -> Tensor:
    return torch.stack([value, value.new_full((), count)])
