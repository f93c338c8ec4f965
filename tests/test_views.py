# SPDX-License-Identifier: Apache-2.0
"""What flows between the parts: documents, kept positions, log-probabilities."""

import pytest
import torch

from hf_ckt.models.batch import Batch, find_documents
from hf_ckt.views import LinearHead, LogitsView, TokenViews


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


def pairs(rows: list[list[int]], kind: str, heads: int = 1) -> torch.Tensor:
    """A mask of pairs by hand: tokens see those of their own number before them; 0 is padding, which nobody sees."""
    seen = torch.tensor(
        [[[b and a == b and j <= i for j, b in enumerate(row)] for i, a in enumerate(row)] for row in rows], dtype=bool
    )[:, None].expand(-1, heads, -1, -1)
    if kind == "bool":
        return seen
    if kind == "int":
        return seen.long()
    hidden = {"float": torch.finfo(torch.float32).min, "half": torch.finfo(torch.float16).min, "infinite": -torch.inf}
    dtype = torch.float16 if kind == "half" else torch.float32
    return torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, hidden.get(kind, -1e4))


@pytest.mark.parametrize("kind", ["bool", "int", "float", "half", "infinite", "ten thousand"])
@pytest.mark.parametrize("heads", [1, 2, 0])
def test_documents_of_a_mask_of_pairs_are_those_that_see_each_other(kind, heads):
    """Every run with a collator of block-diagonal masks stopped in the depths, also where no part asked for documents."""
    mask = pairs([[1, 1, 1, 2, 2, 0], [0, 3, 3, 3, 3, 4]], kind, max(heads, 1))
    found = find_documents(
        {"input_ids": torch.ones(2, 6, dtype=torch.long), "attention_mask": mask if heads else mask[:, 0]}
    )
    assert found.mask.tolist() == [[True] * 5 + [False], [False] + [True] * 5]
    real = found.mask
    assert found.lengths[real].tolist() == [3, 3, 3, 2, 2, 4, 4, 4, 4, 1]
    assert found.positions[real].tolist() == [0, 1, 2, 0, 1, 0, 1, 2, 3, 0]
    numbers = found.index[real].tolist()
    assert [numbers.index(number) for number in numbers] == [0, 0, 0, 3, 3, 5, 5, 5, 5, 9]
    assert int(found.index.max()) < found.count


def test_documents_of_one_mask_for_all_rows_and_of_biased_scores():
    """A mask with one row for a batch of several, and one that also carries a bias for the distance of tokens."""
    distance = torch.arange(4)[:, None] - torch.arange(4)
    mask = pairs([[1, 1, 2, 2]], "float") - 0.5 * distance.clamp(min=0)
    found = find_documents({"input_ids": torch.ones(3, 4, dtype=torch.long), "attention_mask": mask})
    assert found.positions.tolist() == [[0, 1, 0, 1]] * 3 and found.lengths.tolist() == [[2] * 4] * 3
    assert found.index.tolist() == [[0, 0, 1, 1], [2, 2, 3, 3], [4, 4, 5, 5]]


@pytest.mark.parametrize("name", ["cu_seq_lens_q", "cu_seq_lens_k", "cu_seqlens"])
def test_documents_lie_between_cumulated_lengths(name):
    """Boundaries are what kernels of variable length are given; without positions they alone say where a text ends."""
    ids = torch.ones(1, 7, dtype=torch.long)
    found = find_documents({"input_ids": ids, name: torch.tensor([0, 3, 4, 4, 6], dtype=torch.int32)})
    assert found.positions[0, :6].tolist() == [0, 1, 2, 0, 0, 1]
    assert found.lengths[0, :6].tolist() == [3, 3, 3, 1, 2, 2]
    assert found.mask.tolist() == [[True] * 6 + [False]]  # what lies behind the last boundary is padding
    assert int(found.index.max()) < found.count


def test_documents_are_those_of_the_sequence_numbers():
    """Linear attention is told its texts by numbers."""
    found = find_documents(
        {"input_ids": torch.ones(2, 4, dtype=torch.long), "seq_idx": torch.tensor([[0, 0, 1, 1], [1, 1, 1, 2]])}
    )
    assert found.positions.tolist() == [[0, 1, 0, 1], [0, 1, 2, 0]] and found.mask.all()
    assert found.index.tolist() == [[0, 0, 1, 1], [2, 2, 2, 3]]


@pytest.mark.parametrize(
    "positions",
    [
        [[0, 1, 2, 0, 1], [0, 1, 0, 1, 2]],
        [[[0, 1, 2, 0, 1], [0, 1, 0, 1, 2]], [[9] * 5, [9] * 5], [[8] * 5, [8] * 5]],
        [[7, 8, 9, 0, 1], [4, 5, 0, 1, 2]],  # pieces of texts that were cut
    ],
    ids=["text", "text and pictures", "cut"],
)
def test_documents_begin_where_positions_do_not_count_on(positions):
    """A row that begins within a text has a first document, too."""
    found = find_documents({"input_ids": torch.ones(2, 5, dtype=torch.long), "position_ids": torch.tensor(positions)})
    assert found.index.tolist() == [[0, 0, 0, 1, 1], [2, 2, 3, 3, 3]]
    assert found.positions.tolist() == [[0, 1, 2, 0, 1], [0, 1, 0, 1, 2]]
    assert found.lengths.tolist() == [[3, 3, 3, 2, 2], [2, 2, 3, 3, 3]]


def test_one_row_of_positions_counts_for_every_row():
    """Positions are often left without the rows of the batch."""
    found = find_documents({"input_ids": torch.ones(3, 4, dtype=torch.long), "position_ids": torch.arange(4)[None]})
    assert found.index.tolist() == [[0] * 4, [1] * 4, [2] * 4]


class Opaque:
    """A mask for another kernel, of which nothing can be read."""


def test_documents_are_found_only_when_asked_for_and_refused_in_words():
    """Found for every batch, a mask that says nothing would stop runs in which no part needs them."""
    inputs = {"input_ids": torch.ones(1, 4, dtype=torch.long), "attention_mask": Opaque()}
    batch = Batch(inputs, torch.tensor([[-100, 5, 6, 7]]))
    assert batch.kept.tolist() == [0, 1, 2] and batch.kept_labels.tolist() == [5, 6, 7]
    with pytest.raises(ValueError, match=r"attention_mask: is a Opaque, .*position_ids or seq_idx"):
        batch.documents  # noqa: B018 - reading it is the test
    batch = Batch({**inputs, "position_ids": torch.tensor([[0, 1, 0, 1]])}, batch.labels)
    assert batch.documents.index.tolist() == [[0, 0, 1, 1]]


def test_of_several_masks_the_one_of_full_attention_tells_the_documents():
    """Models with layers of several kinds take a mask for each; in a window of one token every token stands alone."""
    full = pairs([[1, 1, 2, 2]], "bool")
    masks = {"sliding_attention": torch.eye(4, dtype=torch.bool)[None, None], "full_attention": full}
    found = find_documents({"input_ids": torch.ones(1, 4, dtype=torch.long), "attention_mask": masks})
    assert found.index.tolist() == [[0, 0, 1, 1]]


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
