# SPDX-License-Identifier: Apache-2.0
"""How the noisy view is computed: of which sequences, in which pass, kept for the backward or computed again."""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from .backbone import run_backbone
from .perturbations.base import EmbeddingNoise, document_uniform
from .views import Batch

# Set apart from the noise's own draws, which start from the same seed.
_SELECTION_KEY = 0x5E1EC7ED


class Views(NamedTuple):
    """
    The student's hidden states of a batch.

    Args:
        student (`torch.Tensor` of shape `(N, D)`):
            At the kept positions of the clean input.
        noisy (`torch.Tensor` of shape `(M, D)`, *optional*):
            At those of the perturbed sequences; None where no sequence was chosen.
        perturbed (`torch.Tensor` of shape `(M,)`, *optional*):
            Which of the N kept positions have a noisy state; None: all.
        outputs (`Any`):
            What the backbone returned for the clean input.
    """

    student: Tensor
    noisy: Tensor | None
    perturbed: Tensor | None
    outputs: Any


@dataclass
class NoisyView:
    """
    Settings of the noisy view.

    Args:
        perturbation ([`~perturbations.base.EmbeddingNoise`]):
            Makes the noise.
        fraction (`float`, *optional*, defaults to `1.0`):
            Probability that a row is perturbed, drawn from its first document's tokens and the step's seed.
        batched (`bool`, *optional*, defaults to `False`):
            Whether both views go through the backbone as one batch; otherwise as two.
        recompute (`bool`, *optional*, defaults to `False`):
            Whether the noisy pass keeps nothing for the backward and is run again there.
        never_empty (`bool`, *optional*, defaults to `False`):
            Whether one sequence is passed through the backbone (and does not count) where none was chosen: sharded
            ranks must make the same passes.
    """

    perturbation: EmbeddingNoise
    fraction: float = 1.0
    batched: bool = False
    recompute: bool = False
    never_empty: bool = False

    def run(self, model: PreTrainedModel, inputs: dict[str, Any], batch: Batch, seed: int) -> Views:
        """
        Runs the backbone on the clean and the perturbed input.

        Args:
            model (`PreTrainedModel`):
                The student's causal language model.
            inputs (`dict`):
                Its inputs, without labels.
            batch ([`~views.Batch`]):
                Kept positions of the batch.
            seed (`int`):
                Seed of the step.
        """
        rows = self._choose(batch, seed)
        if rows is not None and len(rows) == 0 and not self.never_empty:
            outputs = run_backbone(model, inputs)
            return Views(batch.keep(outputs.last_hidden_state), None, rows, outputs)
        passed = rows if rows is None or len(rows) else rows.new_zeros(1)
        noisy_batch = batch if passed is None else _rows_of(batch, passed)
        noisy_inputs = inputs if passed is None else _take(inputs, passed, batch.labels.shape[0])
        embedding: Any = model.get_input_embeddings()
        noise = self.perturbation.noise(
            noisy_batch.inputs["input_ids"], noisy_batch.documents, embedding.weight.shape[-1], seed
        )
        if self.batched:
            if inputs.get("position_ids") is not None:
                raise ValueError(
                    "noisy_view_batched=True: the batch has position_ids, by which packed texts are told apart in one "
                    "row and would not be in two. Set noisy_view_batched=False."
                )
            outputs = run_backbone(model, _stack(inputs, noisy_inputs, len(batch.labels)), noise)
            clean, noisy = outputs.last_hidden_state.split([len(batch.labels), len(noise)])
        else:
            # The noisy pass comes first: autograd takes the graph that was made last first, so where the noisy pass is
            # computed again, the activations of the clean one are gone by then.
            run = partial(run_backbone, model)
            noisy = (
                checkpoint(lambda given: run(noisy_inputs, given).last_hidden_state, noise, use_reentrant=False)
                if self.recompute and torch.is_grad_enabled()
                else run(noisy_inputs, noise).last_hidden_state
            )
            outputs = run(inputs)
            clean = outputs.last_hidden_state
        student, states = batch.keep(clean), noisy_batch.keep(noisy)
        if rows is None:
            return Views(student, states, None, outputs)
        if not len(rows):
            # Still part of the graph, so that its backward runs wherever that of other ranks does.
            return Views(student, states[:0], batch.kept[:0], outputs)
        chosen = torch.isin(batch.kept // batch.labels.shape[1], rows)
        return Views(student, states, chosen.nonzero().squeeze(1), outputs)

    def _choose(self, batch: Batch, seed: int) -> Tensor | None:
        """Rows that are perturbed, or None for all: a draw of each row's first document, the same in any batch."""
        if self.fraction == 1:
            return None
        draws = document_uniform(batch.inputs["input_ids"], batch.documents, 1, seed ^ _SELECTION_KEY)[..., 0]
        first = batch.documents.mask.long().argmax(1)  # where the row begins, behind padding on the left
        return (draws.gather(1, first[:, None])[:, 0] < self.fraction).nonzero().squeeze(1)


def _take(inputs: dict[str, Any], rows: Tensor, count: int) -> dict[str, Any]:
    return {name: value[rows] if _has_rows(value, count) else value for name, value in inputs.items()}


def _rows_of(batch: Batch, rows: Tensor) -> Batch:
    return Batch(_take(batch.inputs, rows, batch.labels.shape[0]), batch.labels[rows])


def _stack(first: dict[str, Any], second: dict[str, Any], count: int) -> dict[str, Any]:
    return {
        name: torch.cat([value, second[name]]) if _has_rows(value, count) else value for name, value in first.items()
    }


def _has_rows(value: Any, count: int) -> bool:
    return isinstance(value, Tensor) and value.shape[:1] == (count,)
