# SPDX-License-Identifier: Apache-2.0
"""A batch taken apart into its documents on the host, and laid out anew when their lengths have changed."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..models.batch import Batch


class Document(NamedTuple):
    """
    One text of a batch.

    Args:
        ids (`list[int]`):
            Token ids, no padding.
        labels (`list[int]`):
            The id where the token counts, else -100; the first never counts, since nothing predicts it.
    """

    ids: list[int]
    labels: list[int]

    @property
    def kept(self) -> list[int]:
        """Ids of the tokens that count, in order; a first token never does."""
        return [label for label in self.labels[1:] if label != -100]


def split_documents(batch: Batch) -> dict[int, Document]:
    """Returns a batch's documents by their numbers, row by row. Waits for the device."""
    documents = batch.documents
    table = torch.stack([batch.inputs["input_ids"], batch.labels, documents.index, documents.mask.long()])
    found: dict[int, Document] = {}
    for token, label, number, real in zip(*table.flatten(1).tolist(), strict=True):
        if real:
            document = found.setdefault(number, Document([], []))
            document.labels.append(label if document.ids else -100)
            document.ids.append(token)
    return found


def collate_documents(
    documents: Sequence[Document], collate: Callable[[list[dict[str, Any]]], dict[str, Any]], like: Batch
) -> Batch:
    """
    Lays documents out as the trainer lays its batches out.

    Args:
        documents (`Sequence[Document]`):
            In their order in `like`.
        collate (`Callable`):
            The trainer's data collator: one row a document, or all in one row.
        like ([`~models.batch.Batch`]):
            The batch that they replace: gives the device and the inputs that are no tensors.

    Raises:
        ValueError: If the batch has an input that the collator does not make from ids and labels.
    """
    device = like.labels.device
    made = collate([{"input_ids": document.ids, "labels": document.labels} for document in documents])
    foreign = sorted(name for name, value in like.inputs.items() if isinstance(value, Tensor) and name not in made)
    if foreign:
        raise ValueError(
            f"perturbation: batches hold {', '.join(foreign)}, which the data collator does not make from input_ids and "
            "labels, so the perturbed prompts would go without. Use a perturbation of embeddings, or a collator that "
            "does."
        )
    others = {name: value for name, value in like.inputs.items() if name not in made}
    made = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in made.items()}
    labels = made.pop("labels")
    return Batch({**others, **made}, labels)
