# SPDX-License-Identifier: Apache-2.0
"""Batches taken apart and laid out anew."""

import pytest
import torch
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from hf_ckt.models.batch import Batch
from hf_ckt.noise.document_batches import Document, collate_documents, split_documents

EXAMPLES = [
    {"input_ids": [5, 6, 7, 8], "labels": [5, -100, 7, 8]},
    {"input_ids": [9], "labels": [-100]},
    {"input_ids": [4, 3, 2], "labels": [-100, 3, 2]},
]
# A first token is never predicted, so it never counts.
DOCUMENTS = [Document([5, 6, 7, 8], [-100, -100, 7, 8]), Document([9], [-100]), Document([4, 3, 2], [-100, 3, 2])]


def collator(layout: str) -> DataCollatorForLanguageModeling:
    return DataCollatorForLanguageModeling(pad_token_id=0, padding_free=layout == "flat")


def batch_of(layout: str, examples=EXAMPLES) -> Batch:
    made = collator(layout)(examples)
    return Batch(made, made.pop("labels"))


@pytest.mark.parametrize("layout", ["padded", "flat"])
def test_documents_come_out_as_they_went_in(layout):
    """A token of the padding, or of the neighbour in the row, would be looked up with the text."""
    found = split_documents(batch_of(layout))
    assert list(found.items()) == list(enumerate(DOCUMENTS))
    assert DOCUMENTS[0].kept == [7, 8]


def test_left_padded_documents_come_out_alike():
    """Padding is read off the mask and not off its side."""
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    ids = torch.tensor([[0, 0, 5, 6], [1, 2, 3, 4]])
    found = split_documents(Batch({"input_ids": ids, "attention_mask": mask}, torch.where(mask.bool(), ids, -100)))
    assert found == {0: Document([5, 6], [-100, 6]), 1: Document([1, 2, 3, 4], [-100, 2, 3, 4])}


@pytest.mark.parametrize("layout", ["padded", "flat"])
def test_changed_documents_are_laid_out_as_the_collator_does(layout):
    """Boundaries for the attention kernels that still describe the clean lengths would let texts see each other."""
    changed = [Document([5, 5, 5, 6, 7, 8], [-100, -100, -100, -100, 7, 8]), DOCUMENTS[1], DOCUMENTS[2]]
    like = batch_of(layout)
    like.inputs["output_router_logits"] = True
    made = collate_documents(changed, collator(layout), like)
    expected = batch_of(layout, [{"input_ids": one.ids, "labels": one.labels} for one in changed])
    assert made.inputs.pop("output_router_logits") is True
    assert made.inputs.keys() == expected.inputs.keys()
    for name, value in expected.inputs.items():
        assert torch.equal(torch.as_tensor(made.inputs[name]), torch.as_tensor(value)), name
    assert torch.equal(made.kept_labels, like.kept_labels) and torch.equal(made.labels, expected.labels)


def test_an_input_that_cannot_be_made_anew_raises():
    """Token types of the clean length beside ids of the noisy one fail deep inside the model, or do not."""
    like = batch_of("padded")
    like.inputs["token_type_ids"] = torch.zeros_like(like.labels)
    with pytest.raises(ValueError, match=r"perturbation: batches hold token_type_ids.*embeddings"):
        collate_documents(DOCUMENTS, collator("padded"), like)
