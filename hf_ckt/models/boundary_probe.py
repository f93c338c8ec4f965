# SPDX-License-Identifier: Apache-2.0
"""What a frozen model knows of which prompts to refuse: a logistic regression on its middle layers' states."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..checkpoints import replace_file, replace_json
from .batch import Batch
from .fingerprint import base_fingerprint

WEIGHTS, FACTS = "boundary_probe.safetensors", "boundary_probe.json"


@dataclass
class BoundaryProbe:
    r"""
    Tells prompts to refuse from prompts to answer by what a frozen model makes of them; `hf-ckt fit-probe` writes it.

        log_odds = weight . features + bias              natural log; features of [`prompt_features`]

    Standardization of the features and the temperature that calibrates the odds are within weight and bias.

    Source: linear probes, Alain and Bengio 2016, https://huggingface.co/papers/1610.01644; temperature scaling, Guo et al.
    2017, https://huggingface.co/papers/1706.04599.

    Args:
        layers (`Sequence[int]` of length L):
            Whose states are read: 0 is the embeddings, l the output of the l-th block.
        weight (`torch.Tensor` of shape `(2 * L * D,)`):
            float32.
        bias (`float`):
            In nats.
        facts (`dict`, *optional*):
            What it was fitted on, and how well it does there; fit for JSON. Under `fingerprint` that of the model.
    """

    layers: Sequence[int]
    weight: Tensor
    bias: float
    facts: dict[str, Any] = field(default_factory=dict)

    def log_odds(self, hidden_states: Sequence[Tensor], batch: Batch) -> tuple[Tensor, Tensor]:
        """
        Returns which documents of a batch have an answer, `(M,)`, and the log-odds that the prompt of each is one to refuse,
        `(M,)`, in nats.

        Args:
            hidden_states (`Sequence[torch.Tensor]`):
                Of the frozen model, `(B, T, D)` from the embeddings on, as transformers gives them with
                `output_hidden_states=True`.
            batch ([`~models.batch.Batch`]):
                What it read.

        Raises:
            ValueError: If the model has fewer layers or another width than the probe's.
        """
        numbers, features = prompt_features(hidden_states, batch, self.layers)
        if features.shape[1] != len(self.weight):
            raise ValueError(
                f"probe: reads {len(self.weight)} numbers of each prompt, and this model gives {features.shape[1]}, so it was "
                "fitted on another model. Fit one on this model with `hf-ckt fit-probe`."
            )
        # Multiplied by hand: a matrix product under autocast would keep 8 bits of states whose differences decide.
        return numbers, (features * self.weight.to(features)).sum(1) + self.bias

    def require_model(self, model: torch.nn.Module) -> None:
        """
        Raises ValueError where the probe says that it was fitted on a model of other embeddings, norms or biases.

        Args:
            model (`torch.nn.Module`):
                That it is to read, quantized or not, with adapters or without.
        """
        own = self.facts.get("fingerprint")
        if own is not None and own != base_fingerprint(model):
            raise ValueError(
                f"probe: was fitted on {self.facts.get('base', 'a model')} (fingerprint {own}), and this is a model of other "
                f"weights ({base_fingerprint(model)}), so its odds would mean nothing. Fit one on this model with "
                "`hf-ckt fit-probe`."
            )

    def save(self, folder: Path | str) -> None:
        """Writes `boundary_probe.safetensors` and `boundary_probe.json` into a folder, such as that of an adapter."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {
            "weight": self.weight.float().contiguous(),
            "bias": torch.tensor([self.bias], dtype=torch.float32),
            # In both files: a stop between the two must not leave weights with the layers of other ones.
            "layers": torch.tensor([*self.layers]),
        }
        replace_file(folder / WEIGHTS, lambda aside: save_file(tensors, aside))
        replace_json(folder / FACTS, {"layers": [*self.layers], **self.facts}, indent=2)

    @classmethod
    def load(cls, folder: Path | str) -> "BoundaryProbe":
        """
        Reads what [`save`] wrote.

        Raises:
            ValueError: If the folder holds no probe, or one that is broken.
        """
        folder = Path(folder)
        if not (folder / WEIGHTS).is_file() or not (folder / FACTS).is_file():
            raise ValueError(
                f"probe: {str(folder)!r} does not hold {WEIGHTS} and {FACTS}, so it is not known which prompts to refuse. "
                "Write them with `hf-ckt fit-probe`."
            )
        try:
            tensors = load_file(folder / WEIGHTS)
            facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
            layers, weight, bias = facts.pop("layers"), tensors["weight"], tensors["bias"]
            whole = layers == tensors["layers"].tolist() and len(weight) % (2 * len(layers)) == 0
            whole = whole and bool(torch.isfinite(torch.cat([weight, bias])).all())
        except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError, RuntimeError):
            whole = False
        if not whole:
            raise ValueError(
                f"probe: {WEIGHTS} and {FACTS} in {str(folder)!r} hold no finite weights for the layers that they name, so they "
                "are damaged or of two probes, and every prompt would get wrong odds. Fit it again with `hf-ckt fit-probe`."
            )
        return cls(layers, weight, bias.item(), facts)


def prompt_features(hidden_states: Sequence[Tensor], batch: Batch, layers: Sequence[int]) -> tuple[Tensor, Tensor]:
    """
    Returns which documents of a batch have an answer, `(M,)`, and what is read of the prompt of each, `(M, 2 * L * D)`
    float32: layer by layer the state at its last token, and the mean over its tokens.

    A document's prompt is all up to its first kept position. Its first token is left out of the mean: in many models its state is
    a hundred times the size of any other, whatever the text.

    Args:
        hidden_states (`Sequence[torch.Tensor]`):
            `(B, T, D)` from the embeddings on.
        batch ([`~models.batch.Batch`]):
            What was read.
        layers (`Sequence[int]` of length L):
            Indices into `hidden_states`.

    Raises:
        ValueError: If there is no such layer.
    """
    missing = [layer for layer in layers if not 0 <= layer < len(hidden_states)]
    if missing:
        raise ValueError(
            f"probe: reads the states of layer {missing[0]}, and the model has {len(hidden_states) - 1} layers, so it was "
            "fitted on another model. Fit one on this model with `hf-ckt fit-probe`."
        )
    documents, device = batch.documents, batch.kept.device
    last = torch.full((documents.count,), documents.index.numel(), device=device)
    last.scatter_reduce_(0, batch.kept_documents[batch.kept_inside], batch.kept[batch.kept_inside], "amin")
    numbers = (last < documents.index.numel()).nonzero().squeeze(1)
    index = documents.index.flatten()
    inside = (torch.arange(index.numel(), device=device) <= last[index]) & documents.mask.flatten()
    inside &= (documents.positions.flatten() > 0) & (last[index] < index.numel())
    tokens = inside.nonzero().squeeze(1)
    lengths = torch.bincount(index[tokens], minlength=documents.count).clamp(min=1)
    features = []
    for layer in layers:
        flat = hidden_states[layer].flatten(0, 1)
        here = flat.device
        sums = torch.zeros(documents.count, flat.shape[1], device=here)
        sums.index_add_(0, index[tokens].to(here), flat[tokens.to(here)].float())
        mean = sums[numbers.to(here)] / lengths[numbers].to(here)[:, None]
        features += [flat[last[numbers].to(here)].float().to(device), mean.to(device)]
    return numbers, torch.cat(features, dim=1)
