# SPDX-License-Identifier: Apache-2.0
"""Which losses and metrics are computed at which positions: by the teacher that speaks there, and by whether noise was."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..kernels.signals import SECOND, Given, MappedSignal, MixedSignal, SignalPart, TopKSignal
from ..kernels.tile_program import TileProgram
from ..models.batch import Batch
from ..views import LinearHead, NoisyStates, select_rows


@dataclass
class HiddenStates:
    """
    What the passes over a batch left: hidden states at the kept positions and heads, by view.

    Args:
        hidden (`dict[str, torch.Tensor]`):
            `(N, D)` for `student` and `reference`.
        heads (`dict[str, LinearHead]`):
            The head of each of them, and of `noisy`.
        noisy ([`~views.NoisyStates`]):
            The student's reading of the perturbed input.
        teacher (`tuple[SignalPart, ...]`, *optional*):
            The teacher's reading, or that of several; see [`~kernels.signals.signal_parts`].
        rejected (`tuple[Batch, tuple[SignalPart, ...]]`, *optional*):
            The teacher's reading of the rejected answers.
        role_masks (`dict[str, torch.Tensor]`, *optional*):
            By role, `(N,)`: False at the positions that it leaves out. A role that is not named counts everywhere.
        token_weights (`dict[str, torch.Tensor]`, *optional*):
            By role, `(N,)`: factor of its loss at each position. 1 for a role that is not named.
        layers (`Sequence[torch.Tensor]`, *optional*):
            The student's states at all positions, `(B, T, D)` from the embeddings on, where the contrast reads them.
    """

    hidden: dict[str, Tensor]
    heads: dict[str, LinearHead]
    noisy: NoisyStates
    teacher: tuple[SignalPart, ...] = ()
    rejected: tuple[Batch, tuple[SignalPart, ...]] | None = None
    role_masks: dict[str, Tensor] = field(default_factory=dict)
    token_weights: dict[str, Tensor] = field(default_factory=dict)
    layers: Sequence[Tensor] = ()

    def factors(self) -> dict[str, Tensor]:
        """Returns, by role, the product of what it leaves out and of how it weighs the rest, `(N,)` each."""
        masks = {role: mask.float() for role, mask in self.role_masks.items()}
        weighed = {
            role: weight * masks[role].to(weight) if role in masks else weight
            for role, weight in self.token_weights.items()
        }
        return masks | weighed


class Part(NamedTuple):
    """
    Positions at which the same is computed.

    Args:
        program ([`~kernels.tile_program.TileProgram`]):
            What is computed.
        hidden (`dict[str, torch.Tensor]`), heads (`dict[str, LinearHead]`), given (`dict[str, Given]`):
            States and heads by view, and what is known of a view in their place or beside them.
        labels (`torch.Tensor` of shape `(M,)`):
            Next-token ids.
        token_weights (`dict[str, torch.Tensor]`):
            By a loss's key, its factor at each position, `(M,)`.
        teacher (`str`):
            Name of the teacher that speaks there; empty where there is one alone, or none.
        rows (`torch.Tensor` of shape `(M,)`, *optional*):
            Which of the N positions they are. None: all.
    """

    program: TileProgram
    hidden: dict[str, Tensor]
    heads: dict[str, LinearHead]
    given: dict[str, Given]
    labels: Tensor
    token_weights: dict[str, Tensor]
    teacher: str
    rows: Tensor | None


class Partition:
    """
    The losses and metrics of an objective, and which of them each position has what it takes for.

    Args:
        losses (`Sequence[tuple[str, TokenLoss]]`), metrics (`Sequence[tuple[str, TokenMetric]]`):
            With their keys.
    """

    def __init__(self, losses: Sequence[tuple[str, Any]], metrics: Sequence[tuple[str, Any]] = ()):
        self._losses, self._metrics = losses, metrics
        self._programs: dict[frozenset[str], TileProgram] = {}
        self.needs: frozenset[str] = self.program().needs

    def program(self, *missing: str) -> TileProgram:
        """Returns the losses and metrics that read none of certain views."""
        key = frozenset(missing)
        if key not in self._programs:
            self._programs[key] = TileProgram(
                [(name, loss) for name, loss in self._losses if not key & loss.needs],
                [(name, metric) for name, metric in self._metrics if not key & metric.needs],
            )
        return self._programs[key]

    def parts(self, states: HiddenStates, labels: Tensor) -> Iterator[Part]:
        """
        Yields the positions, each in one part at most: a position in none has nothing to be computed.

        Args:
            states ([`HiddenStates`]):
                Of all N positions.
            labels (`torch.Tensor` of shape `(N,)`):
                Next-token ids.
        """
        noisy = states.noisy
        # Of no position they may still be part of the graph, so that the backward runs wherever that of other ranks does.
        connected = not noisy.states.requires_grad
        for part, rows in self._speakers(states, labels):
            for perturbed, chosen in _by_noise(noisy, rows, len(labels)):
                connected = connected or perturbed
                missing = [] if perturbed else ["noisy"]
                yield self._part(states, labels, part, chosen, missing)
        if not connected:
            yield self._part(states, labels, None, torch.arange(0, device=labels.device), [])

    def _speakers(self, states: HiddenStates, labels: Tensor) -> Iterator[tuple[SignalPart | None, Tensor | None]]:
        """Yields each teacher with its positions, then those where none speaks; None: all."""
        spoken = sum(len(part.positions) for part in states.teacher) if "teacher" in self.needs else 0
        for part in states.teacher if spoken else ():
            if len(part.positions) == len(labels):
                yield part, None
            elif len(part.positions):
                yield part, part.positions.to(labels.device)
        if not spoken:
            # Of a batch in which nothing counts, one empty part keeps the student in the graph.
            yield None, None
        elif spoken < len(labels):
            silent = torch.ones_like(labels, dtype=torch.bool)
            for part in states.teacher:
                silent[part.positions.to(labels.device)] = False
            yield None, silent.nonzero().squeeze(1)

    def _part(
        self,
        states: HiddenStates,
        labels: Tensor,
        speaker: SignalPart | None,
        rows: Tensor | None,
        missing: list[str],
    ) -> Part:
        hidden, heads, given = dict(states.hidden), dict(states.heads), dict[str, Given]()
        factors = states.factors()
        if speaker is None:
            missing = [*missing, "teacher"]
        if rows is not None:
            hidden, labels = select_rows(hidden, rows), labels[rows]
            factors = {role: factor[rows.to(factor.device)] for role, factor in factors.items()}
        if "noisy" not in missing:
            hidden["noisy"] = _rows_among(states.noisy.states, states.noisy.positions, rows)
        if speaker is not None:
            signal = speaker.signal
            if rows is not None and len(rows) < len(speaker.positions):
                signal = signal.select(_places(speaker.positions, rows))
            if isinstance(signal, TopKSignal):
                given["teacher"] = signal
            else:
                hidden["teacher"], heads["teacher"] = signal.hidden, signal.head
            if isinstance(signal, MappedSignal):
                given["teacher"] = signal.paths
            if isinstance(signal, MixedSignal):
                given["teacher"] = signal.mixture
                hidden[SECOND], heads[SECOND] = signal.second
        program = self.program(*missing)
        keys = {name for name, _ in program.losses}
        weights = {f"{role}_loss": factor for role, factor in factors.items() if f"{role}_loss" in keys}
        return Part(program, hidden, heads, given, labels, weights, "" if speaker is None else speaker.teacher, rows)


def _by_noise(noisy: NoisyStates, rows: Tensor | None, whole: int) -> Iterator[tuple[bool, Tensor | None]]:
    """Yields whether positions were perturbed, and which: of some, or of all where `rows` is None."""
    if len(noisy.positions) in (0, whole):
        yield whole > 0 and len(noisy.positions) == whole, rows
        return
    clean = torch.ones(whole, dtype=torch.bool, device=noisy.positions.device)
    clean = clean.index_fill(0, noisy.positions, False)
    if rows is None:
        yield True, noisy.positions
        yield False, clean.nonzero().squeeze(1)
        return
    rows = rows.to(clean.device)
    for flag in (False, True):
        chosen = rows[(clean[rows] == flag).nonzero().squeeze(1)]
        if len(chosen):
            yield not flag, chosen


def _places(among: Tensor, rows: Tensor) -> Tensor:
    """Where certain positions stand in an ascending list that holds them."""
    return torch.searchsorted(among, rows.to(among.device))


def _rows_among(states: Tensor, positions: Tensor, rows: Tensor | None) -> Tensor:
    """States at certain of the positions that they are of: as they are where those are all."""
    if rows is None or len(rows) == len(positions):
        return states
    return states.index_select(0, _places(positions, rows))
