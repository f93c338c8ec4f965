# SPDX-License-Identifier: Apache-2.0
"""The text that tokenized documents were made from, found by their token ids."""

import copy
import hashlib
from array import array
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from datasets import Dataset

from .document_batches import Document

_KEY_COLUMN = "hf_ckt_key"
# Rows of a tokenized dataset in which a prompt is looked for.
_LOOKED_AT = 64
_TRAINED_ON = (
    "perturbation: changes prompts, and in the {} prompts are trained on like answers, so the two views would have "
    "different tokens to predict. Use prompt-completion data with completion_only_loss, conversations with "
    "assistant_only_loss=True, tokenized data whose labels leave prompts out, or a perturbation of embeddings."
)
# What is needed to render a document anew; a dataset has some of them.
_COLUMNS = ("prompt", "completion", "messages", "tools", "chat_template_kwargs")
_TOKENS = ("input_ids", "labels")


def stable_number(ids: Sequence[int], *, salt: int = 0) -> int:
    """Returns a number of 64 bits that depends on ids and salt alone, in every process and version of Python."""
    key = (salt & (2**64 - 1)).to_bytes(8, "little")
    return int.from_bytes(hashlib.blake2b(array("q", ids).tobytes(), digest_size=8, key=key).digest(), "little")


class PromptSources:
    """
    Rows of the datasets that a trainer prepared, by the ids of their documents.

    Ids and not row numbers: a document is found again in whatever order, batch or pack it arrives, and no column has
    to travel with it. In memory: 16 bytes a row; the rows themselves stay in the dataset's memory-mapped file.
    """

    def __init__(self) -> None:
        self._tables: list[tuple[np.ndarray, np.ndarray, Dataset]] = []

    def add(self, dataset: Dataset, max_length: int | None, keep_end: bool) -> None:
        """
        Adds a dataset.

        Args:
            dataset (`datasets.Dataset`):
                Tokenized and not truncated, with its text columns still there.
            max_length (`int`, *optional*), keep_end (`bool`):
                How documents will be truncated: to how many tokens, and whether to the last ones.
        """

        def keys(rows: dict[str, list]) -> dict[str, list]:
            cut = slice(None) if max_length is None else slice(-max_length, None) if keep_end else slice(max_length)
            return {_KEY_COLUMN: [stable_number(ids[cut]).to_bytes(8, "little") for ids in rows["input_ids"]]}

        found = dataset.select_columns(["input_ids"]).map(
            keys, batched=True, remove_columns=["input_ids"], desc="Noting where the documents' text is"
        )
        numbers = np.frombuffer(b"".join(found[_KEY_COLUMN][:]), dtype="<u8")
        order = np.argsort(numbers, kind="stable")
        if any(np.array_equal(numbers[order], known) for known, _, _ in self._tables):
            return  # prepared once more, for another evaluation
        self._tables.append(
            (
                numbers[order],
                order,
                dataset.select_columns([c for c in (*_COLUMNS, *_TOKENS) if c in dataset.column_names]),
            )
        )

    def prepare(
        self, prepare: Callable, dataset: Any, args: Any, *, required: bool, completion_only: bool, **kwargs: Any
    ) -> Any:
        """
        Prepares a dataset as the trainer does, and notes on the way where its documents' text is.

        Args:
            prepare (`Callable`):
                The trainer's own preparation, of `dataset`, `args` and `kwargs`.
            dataset (`datasets.Dataset` or `datasets.IterableDataset`):
                Not yet tokenized, or tokenized where the text is not required.
            args ([`~trl.SFTConfig`]):
                The trainer's configuration.
            required (`bool`):
                Whether text will be perturbed; tokens can be without it, and so can an evaluation, which then goes without
                a noisy view.
            completion_only (`bool`):
                Whether prompts are left out of the loss where there are completions.

        Raises:
            ValueError: If text is required and there is none, or prompts are trained on.
        """
        plain = partial(prepare, args=args, **kwargs)
        name = f"{kwargs['dataset_name']} dataset"
        loaded = isinstance(dataset, Dataset)
        columns: Any = next(iter(dataset), {}).keys()
        answers_alone = completion_only if "prompt" in columns else args.assistant_only_loss
        prompts_count = kwargs.get("formatting_func") is not None or not answers_alone
        if required and kwargs["dataset_name"] != "train" and ("input_ids" in columns or not loaded or prompts_count):
            return plain(dataset)
        if "input_ids" in columns:
            if required and not (loaded and self._knows(dataset[0])):
                raise ValueError(
                    f"perturbation: the {name} is tokenized already, so its text is gone. Pass prompts and completions as "
                    "text, or use a perturbation of ids or embeddings."
                )
            prepared = plain(dataset)
            if loaded and not any(-100 in labels[1:] for labels in prepared[:_LOOKED_AT]["labels"]):
                raise ValueError(_TRAINED_ON.format(name))
            return prepared
        if required and not loaded:
            raise ValueError(
                f"perturbation: the {name} streams, so a document's text cannot be looked up in it. Load it in full, or "
                "use a perturbation of ids or embeddings."
            )
        if prompts_count:
            raise ValueError(_TRAINED_ON.format(name))
        if not loaded:
            return plain(dataset)
        # First without truncation, packing and shuffling, which lose the text or cut the documents; then only these.
        whole = copy.copy(args)
        whole.max_length, whole.shuffle_dataset = None, False
        tokenized = prepare(dataset, args=whole, **{**kwargs, "packing": False})
        keep_end = args.truncation_mode == "keep_end" and not kwargs["packing"]
        self.add(tokenized, args.max_length, keep_end)
        return plain(tokenized)

    def find(self, ids: Sequence[int]) -> dict[str, Any] | None:
        """Returns the text of the row that a document was made from, and what its template was given."""
        found = self.find_row(ids)
        return None if found is None else found[0]

    def find_row(self, ids: Sequence[int]) -> tuple[dict[str, Any], Document | None] | None:
        """Returns what [`find`] does and the row's tokens before truncation, None where it has no labels."""
        key = np.uint64(stable_number(ids))
        for numbers, order, dataset in self._tables:
            place = int(np.searchsorted(numbers, key))
            if place < len(numbers) and numbers[place] == key:
                row = dataset[int(order[place])]
                tokens, labels = row.pop("input_ids"), row.pop("labels", None)
                return row, None if labels is None else Document(tokens, labels)
        return None

    def _knows(self, row: dict[str, Any]) -> bool:
        """Whether a tokenized row, or the first document of a packed one, was prepared by this trainer."""
        return (
            self.find(row["input_ids"][: row["seq_lengths"][0]] if "seq_lengths" in row else row["input_ids"])
            is not None
        )

    def __len__(self) -> int:
        return sum(len(numbers) for numbers, _, _ in self._tables)
