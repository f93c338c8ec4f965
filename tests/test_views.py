# SPDX-License-Identifier: Apache-2.0
"""What flows between the parts: documents, kept positions, log-probabilities."""

import pytest
import torch

from hf_ckt.views import Batch, LinearHead, LogitsView, TokenViews, find_documents


def test_documents_of_a_padded_batch_are_its_rows():
    """A length that counts padding halves the noise of short sequences."""
    ids = torch.ones(2, 4, dtype=torch.long)
    found = find_documents({"input_ids": ids, "attention_mask": torch.tensor([[1, 1, 1, 0], [0, 0, 1, 1]])})
    assert found.index.tolist() == [[0] * 4, [1] * 4]
    assert found.lengths.tolist() == [[3] * 4, [2] * 4]
    assert found.positions[0, :3].tolist() == [0, 1, 2]
    assert found.positions[1, 2:].tolist() == [0, 1]  # left padding does not shift them
    assert found.mask.tolist() == [[True, True, True, False], [False, False, True, True]]
    assert found.count == 2


def test_documents_of_a_padding_free_batch_start_at_position_zero():
    """Read as one document, a pack would share noise, length and contrast among strangers."""
    ids = torch.ones(1, 6, dtype=torch.long)
    found = find_documents({"input_ids": ids, "position_ids": torch.tensor([[0, 1, 2, 0, 0, 1]])})
    assert found.index.tolist() == [[0, 0, 0, 1, 2, 2]]
    assert found.lengths.tolist() == [[3, 3, 3, 1, 2, 2]]
    assert found.positions.tolist() == [[0, 1, 2, 0, 0, 1]]
    assert found.mask.all() and found.count >= 3


def test_documents_of_a_packed_batch_do_not_run_on_into_the_next_row():
    """Rows of a packed batch are documents of their own even where the count goes on."""
    ids = torch.ones(2, 4, dtype=torch.long)
    found = find_documents({"input_ids": ids, "position_ids": torch.tensor([[0, 1, 0, 1], [0, 1, 2, 3]])})
    assert found.index.tolist() == [[0, 0, 1, 1], [2, 2, 2, 2]]
    assert found.lengths.tolist() == [[2, 2, 2, 2], [4, 4, 4, 4]]


@pytest.mark.parametrize("company", [{}, {"attention_mask": None}])
def test_documents_without_mask_and_positions_are_whole_rows(company):
    """A batch of equal lengths often comes without a mask."""
    found = find_documents({"input_ids": torch.ones(2, 3, dtype=torch.long), **company})
    assert found.mask.all() and found.lengths.tolist() == [[3] * 3] * 2
    assert found.positions.tolist() == [[0, 1, 2]] * 2


def test_mask_goes_before_positions():
    """Some collators send both; a left-padded row's positions would otherwise open a document at every pad."""
    ids = torch.ones(1, 5, dtype=torch.long)
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.tensor([[0, 0, 1, 1, 1]]),
        "position_ids": torch.tensor([[0, 0, 0, 1, 2]]),
    }
    found = find_documents(inputs)
    assert found.count == 1 and found.lengths.tolist() == [[3] * 5]


def test_batch_keeps_the_positions_that_predict_a_counted_label():
    """Unshifted, the model is trained to copy the token that it reads."""
    labels = torch.tensor([[-100, 5, -100, 6], [7, -100, 8, 9]])
    batch = Batch({"input_ids": torch.ones(2, 4, dtype=torch.long)}, labels)
    # Row 0: 5 is predicted at 0, 6 at 2. Row 1: 7 has no position before it; 8 at 1, 9 at 2. Never across rows.
    assert batch.kept.tolist() == [0, 2, 5, 6]
    assert batch.kept_labels.tolist() == [5, 6, 8, 9]
    assert batch.kept_documents.tolist() == [0, 0, 1, 1]
    hidden = torch.arange(16.0).view(2, 4, 2)
    assert torch.equal(batch.keep(hidden), hidden.flatten(0, 1)[[0, 2, 5, 6]])


def test_keep_of_an_all_masked_batch_stays_connected():
    """Cut off, its backward would give no gradient at all and DDP would wait for ever."""
    batch = Batch({"input_ids": torch.ones(2, 3, dtype=torch.long)}, torch.full((2, 3), -100))
    hidden = torch.randn(2, 3, 4, requires_grad=True)
    kept = batch.keep(hidden)
    assert kept.shape == (0, 4)
    kept.sum().backward()
    assert hidden.grad.count_nonzero() == 0


def test_pair_renormalises_over_the_shared_ids():
    """Mass on ids that the other model lacks would make two equal predictions differ."""
    logits = torch.randn(3, 5, dtype=torch.float64)
    padded = torch.cat([logits, torch.full((3, 2), 40.0, dtype=torch.float64)], dim=1)
    views = TokenViews(torch.zeros(3).long(), LogitsView(logits), teacher=LogitsView(padded))
    target, prediction = views.pair("teacher", "student", 2.0)
    torch.testing.assert_close(target, prediction)
    torch.testing.assert_close(target.exp().sum(-1), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(target, (logits / 2).log_softmax(-1))
    assert views.teacher.log_probs().shape == (3, 7)


def test_log_probs_of_another_temperature_are_not_mixed_up():
    """The cache would hand a distillation at temperature 2 to the task loss at 1."""
    view = LogitsView(torch.randn(3, 5, dtype=torch.float64))
    for temperature in (1.0, 2.0, 1.0, 0.5):
        for size in (5, 3):
            wanted = (view.logits[:, :size] / temperature).log_softmax(-1)
            torch.testing.assert_close(view.log_probs(temperature, size), wanted)
    assert view.log_probs(2.0) is view.log_probs(2.0)  # computed once


@pytest.mark.parametrize(
    ("weight", "bias", "trainable"), [(False, None, False), (True, None, True), (False, True, True)]
)
def test_head_trains_when_any_of_its_tensors_does(weight, bias, trainable):
    """A head taken as frozen keeps a stale Gram matrix."""
    head = LinearHead(
        torch.zeros(3, 2, requires_grad=weight), None if bias is None else torch.zeros(3, requires_grad=bias)
    )
    assert head.trainable is trainable
