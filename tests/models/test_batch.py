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


def test_kept_tokens_are_counted_from_their_documents_beginning():
    """Counted from the row's, the second answer of a pack would begin where the first one ends."""
    ids = torch.arange(12).view(2, 6)
    labels = torch.tensor([[-100, 1, 2, -100, 4, 5], [-100, -100, 8, 9, -100, -100]])
    mask = torch.tensor([[1] * 6, [1, 1, 1, 1, 0, 0]])
    padded = Batch({"input_ids": ids, "attention_mask": mask}, labels)
    # In a conversation the second answer goes on counting.
    assert padded.kept_before.tolist() == [0, 1, 2, 3, 0, 1]
    positions = torch.tensor([[0, 1, 2, 3, 4, 5, 0, 1, 2, 3]])
    packed = Batch({"input_ids": ids.flatten()[None, :10], "position_ids": positions}, labels.flatten()[None, :10])
    assert packed.kept_before.tolist() == [0, 1, 2, 3, 0, 1]
    left = Batch({"input_ids": ids, "attention_mask": mask.flip(1)}, labels)
    assert left.kept_before.tolist() == [0, 1, 2, 3, 0, 1]
    nothing = Batch({"input_ids": ids}, torch.full_like(ids, -100))
    assert nothing.kept_before.tolist() == []
