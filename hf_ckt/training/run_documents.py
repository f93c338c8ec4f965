# SPDX-License-Identifier: Apache-2.0
"""The documents that a run's data holds, as its data collator lays them out."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from datasets import Dataset, IterableDataset

from ..models.signal_store.documents import StoredDocument, documents_of
from .collator import RejectedCollator, read_batch, split_rejected

# Rows that are collated together: more only pad more.
_ROWS = 16


class RowsDocuments(NamedTuple):
    """
    Some rows of a dataset, and their documents.

    Args:
        dataset (`str`):
            What the dataset is called.
        first (`int`):
            Number of the first row.
        documents (`list[StoredDocument]`):
            Those in which something counts.
    """

    dataset: str
    first: int
    documents: list[StoredDocument]


def loaded_datasets(trainer: Any) -> dict[str, Dataset]:
    """Returns those datasets of a trainer that lie prepared in memory or on disk, by name."""
    named = {"train_dataset": trainer.train_dataset}
    several = isinstance(trainer.eval_dataset, dict)
    named |= {f"eval_dataset[{key!r}]": one for key, one in trainer.eval_dataset.items()} if several else {}
    named |= {} if several else {"eval_dataset": trainer.eval_dataset}
    return {name: one for name, one in named.items() if isinstance(one, Dataset)}


def require_found_by_tokens(trainer: Any, command: str, unknown: str) -> None:
    """
    Raises ValueError where what is kept of a trainer's data could not be found again by its documents' tokens.

    Args:
        trainer ([`~training.trainer.ContrastiveRobustTrainer`]):
            Its data is prepared.
        command (`str`), unknown (`str`):
            Who asks, and what is not known of data that streams, for messages.
    """
    if getattr(trainer, "_is_vision_dataset", False):
        raise ValueError(
            f"{command}: the data has images, and what is kept is found by the tokens alone, so two images behind one text would "
            "be one. Let a teacher run in each step."
        )
    if any(isinstance(one, IterableDataset) for one in (trainer.train_dataset, trainer.eval_dataset)):
        raise ValueError(f"{command}: the data streams, so {unknown}. Load it in full (dataset_streaming: false).")


def documents_in(
    trainer: Any, name: str, dataset: Dataset, collate: Callable, rows: int = _ROWS
) -> Iterator[RowsDocuments]:
    """
    Yields the documents of a dataset, with the rejected answers where there are any.

    Args:
        trainer ([`~training.trainer.ContrastiveRobustTrainer`]):
            Knows which columns a collator is given.
        name (`str`), dataset (`datasets.Dataset`):
            A prepared one.
        collate (`Callable`):
            The data collator.
        rows (`int`, *optional*):
            Rows that are collated together.
    """
    read = trainer._remove_unused_columns(dataset, description=name)
    for first in range(0, len(read), rows):
        examples = [read[number] for number in range(first, min(first + rows, len(read)))]
        found = []
        for batch in split_rejected(collate(examples)):
            if batch is not None:
                found += documents_of(read_batch(batch, trainer._marks)[0])
        yield RowsDocuments(name, first, found)


def collates_rejected(trainer: Any, collate: Callable) -> Callable:
    """Returns a data collator that reads a trainer's rejected answers too, where it trains on them."""
    return RejectedCollator(collate) if trainer.args.contrastive_rejected else collate
