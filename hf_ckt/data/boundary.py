# SPDX-License-Identifier: Apache-2.0
"""The boundary set: harmful prompts, each with benign twins of the same words or subject, and plain ones."""

from typing import TYPE_CHECKING, Any, Literal

from ..checks import require_known
from .files import packaged_dataset

if TYPE_CHECKING:
    from datasets import Dataset

SPLITS = ("train", "validation", "heldout")
KINDS = ("harmful", "twin", "plain")
COLUMNS = ("id", "kind", "category", "prompt", "response", "twin")


def load_boundary_set(split: Literal["train", "validation", "heldout"] = "train") -> "Dataset":
    """
    Loads one part of the boundary set; nothing is downloaded.

    Each harmful prompt, answered by a refusal that gives its reason and a way on, has twins: benign prompts that share its
    trigger words or its subject (medicine, history, fiction, code, figures of speech), answered directly. What is left to
    tell them apart is what is asked for. Refusals are a fifth of the training rows.

    Args:
        split (`str`, *optional*, defaults to `"train"`):
            `"train"`; `"validation"`, on which things are chosen; `"heldout"`, which no choice has seen. They share no
            wording, and a third of the held-out categories are in neither of the others.

    Returns:
        [`~datasets.Dataset`] with the string columns `id`, `kind` (`"harmful"`, `"twin"` or `"plain"`), `category`, `prompt`,
        `response` and `twin` (the id of the harmful row that a twin belongs to, else None).

    Raises:
        ValueError: If there is no such split, or if a line of the packaged file cannot be read as a row.

    Example:

    >>> from hf_ckt.data import load_boundary_set
    >>> rows = load_boundary_set("validation")
    >>> sorted(set(rows["kind"]))
    ['harmful', 'plain', 'twin']
    """
    require_known("split", split, SPLITS)
    return packaged_dataset(f"boundary_{split}.jsonl", COLUMNS, _check_row)


def _check_row(row: dict[str, Any]) -> None:
    if sorted(row) != sorted(COLUMNS) or row["kind"] not in KINDS or (row["twin"] is None) == (row["kind"] == "twin"):
        raise ValueError(
            f"a row needs exactly the keys {', '.join(COLUMNS)}, with kind one of {', '.join(KINDS)} and, of a twin alone, the "
            f"harmful row's id, got {row!r}."
        )
