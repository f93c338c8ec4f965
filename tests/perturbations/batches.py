# SPDX-License-Identifier: Apache-2.0
"""The same documents, laid out in the ways that collators do."""

import torch
from torch import Tensor

from hf_ckt.models.batch import Documents, find_documents

PAD = 0


def draw_document(length: int, seed: int, vocab: int = 1000) -> Tensor:
    return torch.randint(1, vocab, (length,), generator=torch.Generator().manual_seed(seed))


def padded(documents: list[Tensor], *, left: bool = False, extra: int = 0) -> tuple[Tensor, Documents, list]:
    """Input ids, documents, and for each document where its tokens are."""
    width = max(map(len, documents)) + extra
    ids = torch.full((len(documents), width), PAD)
    mask = torch.zeros_like(ids)
    places = []
    for row, document in enumerate(documents):
        place = slice(width - len(document), width) if left else slice(0, len(document))
        ids[row, place], mask[row, place] = document, 1
        places.append((row, place))
    return ids, find_documents({"input_ids": ids, "attention_mask": mask}), places


def packed(documents: list[Tensor]) -> tuple[Tensor, Documents, list]:
    """One row without padding, as padding-free training and packing have it."""
    ids = torch.cat(documents)[None]
    positions = torch.cat([torch.arange(len(document)) for document in documents])[None]
    ends = torch.tensor([len(document) for document in documents]).cumsum(0).tolist()
    places = [(0, slice(end - len(document), end)) for document, end in zip(documents, ends, strict=True)]
    return ids, find_documents({"input_ids": ids, "position_ids": positions}), places
