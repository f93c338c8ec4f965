# SPDX-License-Identifier: Apache-2.0
"""Parts of a batch."""

import torch

from hf_ckt.models.batch import Batch


def in_one_row(lengths, padding):
    """Documents in one row, the last two tokens of each counting, padded as a padding-free collator does it."""
    ids = [token for length in lengths for token in range(5, 5 + length)]
    positions = [position for length in lengths for position in range(length)]
    labels = [label for length in lengths for label in [-100] * (length - 2) + [1, 2]]
    inputs = {
        "input_ids": torch.tensor([ids + [0] * padding]),
        "position_ids": torch.tensor([positions + [0] * padding]),
    }
    return Batch(inputs, torch.tensor([labels + [-100] * padding]))


def test_documents_of_a_context_are_found_whatever_pads_it():
    """Each token of the padding begins at 0 and looks like a document, of which the two texts have different numbers."""
    batch = in_one_row([4, 5], 3)
    batch.context = in_one_row([6, 7], 1)
    own, _ = batch.of_documents(torch.arange(batch.documents.count) == 1)
    assert own.inputs["input_ids"].tolist() == [[5, 6, 7, 8, 9]]
    assert own.context.inputs["input_ids"].tolist() == [[5, 6, 7, 8, 9, 10, 11]]
