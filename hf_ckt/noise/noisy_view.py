# SPDX-License-Identifier: Apache-2.0
"""How the noisy view is computed: of which sequences, in which pass, kept for the backward or computed again."""

import copy
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from ..discovery import part_name
from ..models.backbone import embedding_width, run_backbone
from ..models.batch import BOUNDARIES, Batch, Documents, has_rows
from ..perturbations.base import EmbeddingPerturbation, document_uniform
from ..views import NoisyStates
from .document_batches import collate_documents, split_documents
from .mixture import Mixture
from .noisy_prompts import NoisyPrompts
from .stayed_clean import log_name

logger = logging.getLogger(__name__)

# Set apart from the noise's own draws, which start from the same seed.
_SELECTION_KEY = 0x5E1EC7ED


class StudentViews(NamedTuple):
    """
    The student's hidden states of a batch.

    Args:
        student (`torch.Tensor` of shape `(N, D)`):
            At the kept positions of the clean input.
        noisy ([`~views.NoisyStates`]):
            At those of the perturbed sequences.
        outputs (`Any`):
            What the backbone returned for the clean input.
    """

    student: Tensor
    noisy: NoisyStates
    outputs: Any


@dataclass
class NoisyView:
    """
    Settings of the noisy view.

    Args:
        mixture ([`~noise.mixture.Mixture`]):
            What perturbs the input.
        prompts ([`~noise.noisy_prompts.NoisyPrompts`], *optional*), collate (`Callable`, *optional*):
            Perturb prompts as text or tokens, and lay the changed documents out; needed by such perturbations.
        fraction (`float`, *optional*, defaults to `1.0`):
            Probability that a row is perturbed, drawn from its first document's tokens and the step's seed.
        every (`int`, *optional*, defaults to `1`):
            The view is computed in one of this many training steps.
        batched (`bool`, *optional*, defaults to `False`):
            Whether both views go through the backbone as one batch; otherwise as two.
        recompute (`bool`, *optional*, defaults to `False`):
            Whether the noisy pass keeps nothing for the backward and is run again there.
        never_empty (`bool`, *optional*, defaults to `False`):
            Whether one sequence is passed through the backbone (and does not count) where none was chosen: sharded
            ranks must make the same passes.
        warm_start (`bool`, *optional*, defaults to `False`):
            Whether a search begins at the noise that it ended with in the step before.
    """

    mixture: Mixture
    prompts: NoisyPrompts | None = None
    collate: Callable | None = None
    fraction: float = 1.0
    every: int = 1
    batched: bool = False
    recompute: bool = False
    never_empty: bool = False
    warm_start: bool = False

    def __post_init__(self) -> None:
        self.previous: Tensor | None = None
        """Noise of the last search, by position: `(T, D)`. Part of a run's state."""
        parts = self.mixture.parts.values()
        self._rewrites = any(part.stage != "embeddings" for part in parts)
        self._searches = any(getattr(part, "searches", False) for part in parts)

    @property
    def log_names(self) -> list[str]:
        """The names that [`take_counts`] may give."""
        return [log_name(part_name(part)) for part in self.mixture.parts.values() if part.stage != "embeddings"]

    @contextmanager
    def counts_kept(self) -> Iterator[None]:
        """What is perturbed within is neither counted nor logged."""
        counted = None if self.prompts is None else copy.deepcopy(self.prompts.stayed_clean)
        try:
            yield
        finally:
            if self.prompts is not None and counted is not None:
                self.prompts.stayed_clean = counted

    def take_counts(self, like: Tensor) -> dict[str, Tensor]:
        """Returns how many documents stayed clean since the last call, see [`~noise.stayed_clean.StayedClean.take`]."""
        return {} if self.prompts is None else self.prompts.stayed_clean.take(like)

    def run(
        self,
        model: PreTrainedModel,
        inputs: dict[str, Any],
        batch: Batch,
        seed: int,
        *,
        progress: float = 0.0,
        training: bool = True,
        divergence: Callable[[NoisyStates, Tensor], Tensor] | None = None,
    ) -> StudentViews:
        """
        Runs the backbone on the clean and the perturbed input.

        Args:
            model (`PreTrainedModel`):
                The student's causal language model.
            inputs (`dict`):
                Its inputs, without labels.
            batch ([`~models.batch.Batch`]):
                Kept positions of the batch.
            seed (`int`):
                Seed of the step.
            progress (`float`, *optional*, defaults to `0.0`):
                Training progress in [0, 1], for the severity.
            training (`bool`, *optional*, defaults to `True`):
                Whether the batch is trained on. An evaluation begins every search anew, and goes without a noisy view where
                text is perturbed and that of a document is not known.
            divergence (`Callable`, *optional*):
                From the noisy states and the clean ones `(N, D)` to what a search ascends, a scalar. Needed by
                perturbations that search.
        """
        if self.prompts is not None:
            self.prompts.stayed_clean.forget()
        rows = self._choose(batch, seed) if training or self._knows_texts(batch) else batch.kept[:0]
        run = partial(run_backbone, model)
        if rows is not None and len(rows) == 0 and not self.never_empty:
            outputs = run(inputs)
            student = batch.keep(outputs.last_hidden_state)
            return StudentViews(student, NoisyStates.nowhere(student), outputs)
        passed = rows if rows is None or len(rows) else rows.new_zeros(1)
        positions = _positions(batch, passed)
        passed_batch = batch if passed is None else batch.rows(passed)
        counts = rows is None or len(rows) > 0
        noisy_batch, choice = self._rewrite(passed_batch, seed, progress, training) if counts else (passed_batch, None)
        draw = partial(self._noise, model, noisy_batch, choice, seed, progress, training)
        read = partial(_last_hidden_state, run, noisy_batch.inputs)
        if self._searches:
            # The search compares with the clean view, so that one is there first.
            outputs = run(inputs)
            clean = outputs.last_hidden_state
            target = batch.keep(clean).detach()
            assert divergence is not None

            def respond(noise: Tensor) -> Tensor:
                return divergence(NoisyStates(noisy_batch.keep(read(noise)), positions), target)

            noisy = read(draw(partial(_gradient, respond)))
        elif self.batched:
            for name in ("position_ids", *BOUNDARIES):
                if inputs.get(name) is not None:
                    raise ValueError(
                        f"noisy_view_batched=True: the batch has {name}, by which packed texts are told apart in one row "
                        "and would not be in two. Set noisy_view_batched=False."
                    )
            noise = draw()
            assert noise is not None
            outputs = run(_stack(inputs, noisy_batch.inputs, len(batch.labels)), noise)
            clean, noisy = outputs.last_hidden_state.split([len(batch.labels), len(noise)])
        else:
            # The noisy pass comes first: autograd takes the graph that was made last first, so where the noisy pass is
            # computed again, the activations of the clean one are gone by then.
            again = self.recompute and torch.is_grad_enabled()
            noisy = checkpoint(read, draw(), use_reentrant=False) if again else read(draw())
            outputs = run(inputs)
            clean = outputs.last_hidden_state
        student, states = batch.keep(clean), noisy_batch.keep(noisy)
        if not counts:
            # Still part of the graph, so that its backward runs wherever that of other ranks does.
            states, positions = states[:0], positions[:0]
        probability = self.fraction / (self.every if training else 1)
        return StudentViews(student, NoisyStates(states, positions, probability), outputs)

    def perturbed(self, batch: Batch, seed: int, progress: float = 0.0) -> tuple[Batch, Tensor | None] | None:
        """
        Returns the input of the noisy pass that [`run`] makes of a batch that is trained on, without a pass.

        Returns:
            `tuple[Batch, torch.Tensor | None]`: the rows that are perturbed, with their prompts rewritten as text or tokens,
            and the place in the mixture of each document's perturbation, None where there is one alone. Or None where no
            row of the batch is perturbed.
        """
        rows = self._choose(batch, seed)
        if rows is not None and len(rows) == 0:
            return None
        return self._rewrite(batch if rows is None else batch.rows(rows), seed, progress)

    def _choose(self, batch: Batch, seed: int) -> Tensor | None:
        """Rows that are perturbed, or None for all: a draw of each row's first document, the same in any batch."""
        if self.fraction == 1:
            return None
        draws = document_uniform(batch.inputs["input_ids"], batch.documents, 1, seed ^ _SELECTION_KEY)[..., 0]
        first = batch.documents.mask.long().argmax(1)  # where the row begins, behind padding on the left
        return (draws.gather(1, first[:, None])[:, 0] < self.fraction).nonzero().squeeze(1)

    @torch.compiler.disable
    def _knows_texts(self, batch: Batch) -> bool:
        """Whether every text that would be perturbed can be looked up: those of `predict`, say, can not."""
        if self.prompts is None or all(part.stage != "text" for part in self.mixture.parts.values()):
            return True
        documents = split_documents(batch).values()
        known = all(self.prompts.sources.find(one.ids) is not None for one in documents if one.kept)
        if not known:
            _say_without_text()
        return known

    # Kept out of torch_compile: text is no tensor.
    @torch.compiler.disable
    def _rewrite(self, batch: Batch, seed: int, progress: float, training: bool = True) -> tuple[Batch, Tensor | None]:
        """The batch with its prompts perturbed as text or tokens, and each document's part."""
        choice = self.mixture.choose(batch.inputs["input_ids"], batch.documents, seed)
        if not self._rewrites:
            return batch, choice
        assert self.prompts is not None and self.collate is not None
        parts = self.mixture.at(progress)
        documents = split_documents(batch)
        chosen = [0] * batch.documents.count if choice is None else choice.tolist()
        noisy = [
            document
            if parts[chosen[number]].stage == "embeddings"
            else self.prompts.perturb(document, parts[chosen[number]], seed, training=training)
            for number, document in documents.items()
        ]
        made = collate_documents(noisy, self.collate, batch)
        if len(made.kept) != len(batch.kept):
            raise ValueError(
                f"perturbation: the data collator made {len(made.kept)} kept positions of the noisy prompts and "
                f"{len(batch.kept)} of the clean ones, so the two views cannot be compared. Use one that keeps labels as "
                "they are, or a perturbation of embeddings."
            )
        if choice is not None:
            numbers = torch.tensor(list(documents)).to(choice.device, non_blocking=True)
            choice = choice.new_zeros(made.documents.count).index_copy_(
                0, torch.arange(len(numbers), device=choice.device), choice[numbers]
            )
        return made, choice

    def _noise(
        self,
        model: PreTrainedModel,
        batch: Batch,
        choice: Tensor | None,
        seed: int,
        progress: float,
        training: bool,
        gradient: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor | None:
        """Noise on the embeddings, each document's by its own part; None where no part makes any."""
        ids, documents, width = batch.inputs["input_ids"], batch.documents, embedding_width(model)
        total = None
        for index, part in enumerate(self.mixture.at(progress)):
            if not isinstance(part, EmbeddingPerturbation):
                continue
            start = self._start(documents) if part.searches and training else None
            noise = part.noise(ids, documents, width, seed, gradient if part.searches else None, start)
            if part.searches and self.warm_start and training:
                self.previous = noise[0].detach().clone()
            if choice is not None:
                noise = noise * (choice[documents.index] == index)[..., None]
            total = noise if total is None else total + noise
        return total

    def _start(self, documents: Documents) -> Tensor | None:
        if self.previous is None or not self.warm_start:
            return None
        previous = self.previous.to(documents.positions.device)
        there = documents.positions < len(previous)
        return previous[documents.positions.clamp(max=len(previous) - 1)] * there[..., None]


@cache
def _say_without_text() -> None:
    logger.warning(
        "perturbation: an evaluation met documents that are in none of the datasets that this trainer prepared, so their "
        "text is unknown. Batches with such documents are evaluated without a noisy view. It is said once."
    )


def _last_hidden_state(run: Callable, inputs: dict[str, Any], noise: Tensor | None) -> Tensor:
    return run(inputs, noise).last_hidden_state


def _gradient(respond: Callable[[Tensor], Tensor], noise: Tensor) -> Tensor:
    """The gradient of a response with respect to the noise alone: none is formed for a parameter, no hook fires."""
    noise = noise.detach().requires_grad_()
    with torch.enable_grad():
        value = respond(noise)
    return torch.autograd.grad(value, noise)[0]


def _positions(batch: Batch, rows: Tensor | None) -> Tensor:
    """Which of the kept positions lie in certain rows; None: in any."""
    if rows is None:
        return torch.arange(len(batch.kept), device=batch.kept.device)
    return torch.isin(batch.kept // batch.labels.shape[1], rows).nonzero().squeeze(1)


def _stack(first: dict[str, Any], second: dict[str, Any], count: int) -> dict[str, Any]:
    def stack(value: Any, other: Any) -> Any:
        if isinstance(value, dict):
            return _stack(value, other, count)
        return torch.cat([value, other]) if has_rows(value, count) else value

    # What is asked of the clean pass alone, such as its states in all layers, is asked of both.
    asked = {name: value for name, value in first.items() if isinstance(value, bool)}
    return {name: stack(value, second[name]) for name, value in first.items() if name not in asked} | asked
