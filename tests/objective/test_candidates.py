# SPDX-License-Identifier: Apache-2.0
"""Anchors and candidates of the contrastive role: which states are compared with which."""

import logging

import pytest
import torch
from torch import Tensor

from hf_ckt.kernels.signals import SignalPart, TeacherSignal, signal_parts
from hf_ckt.models.batch import Batch
from hf_ckt.objective import candidates
from hf_ckt.objective.candidates import Contrast, TeacherQueue
from hf_ckt.views import LinearHead, Similarities

STUDENT_HEAD = LinearHead(torch.randn(12, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
TEACHER_HEAD = LinearHead(torch.randn(12, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64))


def make_contrast(level: str = "token", *, max_anchors: int = 100, queue: int = 0) -> Contrast:
    return Contrast(level, max_anchors, TeacherQueue(queue))


def make_batch(lengths: list[int], prompts: list[int], layout: str = "padded") -> Batch:
    """Documents of random ids whose first tokens, the prompt, do not count."""
    generator = torch.Generator().manual_seed(0)
    ids = [torch.randint(1, 12, (length,), generator=generator) for length in lengths]
    labels = [torch.cat([torch.full((p,), -100), x[p:]]) for x, p in zip(ids, prompts, strict=True)]
    if layout == "packed":
        positions = torch.cat([torch.arange(length) for length in lengths])[None]
        return Batch({"input_ids": torch.cat(ids)[None], "position_ids": positions}, torch.cat(labels)[None])
    width = max(lengths) + (3 if layout == "wide" else 0)

    def pad(rows: list[Tensor], value: int) -> Tensor:
        return torch.stack([torch.nn.functional.pad(row, (0, width - len(row)), value=value) for row in rows])

    mask = pad([torch.ones_like(row) for row in ids], 0)
    return Batch({"input_ids": pad(ids, 0), "attention_mask": mask}, pad(labels, -100))


def draw(count: int, width: int, seed: int) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def heard(teacher: Tensor, head: LinearHead = TEACHER_HEAD) -> tuple[SignalPart, ...]:
    return signal_parts(TeacherSignal(teacher, head), len(teacher))


def similarities(contrast: Contrast, batch: Batch, seed: int = 0, **options) -> Similarities | None:
    count = len(batch.kept)
    student, teacher = draw(count, 5, seed), draw(count, 4, seed + 1)
    return contrast.similarities(batch, student, STUDENT_HEAD, heard(teacher), **options)


def expected(student: Tensor, teacher: Tensor, further: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Cosines of the logits centred over the vocabulary and over the batch, pair by pair."""

    def centre(states: Tensor, mean: Tensor, head: LinearHead) -> Tensor:
        logits = states @ head.weight.t() - mean @ head.weight.t()
        return logits - logits.mean(-1, keepdim=True)

    pool = teacher if further is None else torch.cat([teacher, further])
    s = centre(student, student.mean(0), STUDENT_HEAD)
    t, c = (centre(states, teacher.mean(0), TEACHER_HEAD) for states in (teacher, pool))
    cosines = [torch.nn.functional.cosine_similarity(x[:, None], c[None], dim=-1) for x in (s, t)]
    return cosines[0], cosines[1]


def check(found: Similarities, student: Tensor, teacher: Tensor, further: Tensor | None = None) -> None:
    for value, wanted in zip(
        (found.student_teacher, found.teacher_teacher), expected(student, teacher, further), strict=True
    ):
        torch.testing.assert_close(value, wanted, rtol=0, atol=1e-9)
    assert found.positive.tolist() == list(range(len(student)))


def test_token_level_compares_every_kept_position_with_every_other():
    """Off by one, every positive would be the neighbouring token, and the loss would still fall."""
    batch = make_batch([6, 4], [2, 1])
    count = len(batch.kept)
    assert count == 4 + 3
    check(similarities(make_contrast(), batch), draw(count, 5, 0), draw(count, 4, 1))


def mean_by_document(batch: Batch, states: Tensor) -> Tensor:
    rows = []
    for document in sorted(set(batch.kept_documents.tolist())):
        members = [states[i] for i, other in enumerate(batch.kept_documents.tolist()) if other == document]
        rows.append(sum(members) / len(members))
    return torch.stack(rows)


@pytest.mark.parametrize("layout", ["padded", "wide", "packed"])
def test_sequence_level_compares_means_over_each_documents_kept_tokens(layout):
    """Padding or a neighbour in the pack that is averaged in makes all sequences alike."""
    batch = make_batch([6, 4, 9], [2, 1, 3], layout)
    count = len(batch.kept)
    assert count == 4 + 3 + 6
    found = similarities(make_contrast("sequence"), batch)
    rows = [mean_by_document(batch, draw(count, width, seed)) for width, seed in ((5, 0), (4, 1))]
    assert len(rows[0]) == 3
    check(found, *rows)
    padded = similarities(make_contrast("sequence"), make_batch([6, 4, 9], [2, 1, 3]))
    torch.testing.assert_close(found.student_teacher, padded.student_teacher, rtol=0, atol=1e-12)


def test_sequence_level_leaves_out_documents_without_kept_tokens():
    """Their mean is 0 / 0, which would make every similarity of the batch NaN."""
    batch = make_batch([6, 4, 9], [2, 4, 3])
    found = similarities(make_contrast("sequence"), batch)
    assert found.student_teacher.shape == (2, 2) and found.student_teacher.isfinite().all()


def test_max_anchors_takes_the_same_evenly_spaced_positions_of_student_and_teacher():
    """Other positions for each of them pair every student state with another token's teacher state."""
    batch = make_batch([30], [1])
    count = len(batch.kept)
    found = similarities(make_contrast(max_anchors=7), batch)
    picked = [i * count // 7 for i in range(7)]
    assert count == 29 and picked[0] == 0 and len(set(picked)) == 7
    check(found, draw(count, 5, 0)[picked], draw(count, 4, 1)[picked])


def test_gradient_reaches_the_student_through_its_mean_and_nothing_else():
    """A teacher with a gradient would come to the student instead."""
    batch = make_batch([5, 5], [1, 1])
    student, teacher = draw(8, 5, 0).requires_grad_(), draw(8, 4, 1).requires_grad_()
    found = make_contrast().similarities(batch, student, STUDENT_HEAD, heard(teacher))
    (gradient,) = torch.autograd.grad(found.student_teacher.square().sum(), student, retain_graph=True)
    copy = draw(8, 5, 0).requires_grad_()
    wanted = expected(copy, teacher.detach())[0].square().sum()
    torch.testing.assert_close(gradient, torch.autograd.grad(wanted, copy)[0])
    assert not found.teacher_teacher.requires_grad
    found.student_teacher.sum().backward()
    assert teacher.grad is None


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_rejected_answers_are_negatives_only(level):
    """As anchors they would be imitated: the student would learn the unsafe answer."""
    batch, rejected = make_batch([6, 4], [2, 1]), make_batch([5, 7], [2, 1])
    states = draw(len(rejected.kept), 4, 9)
    found = similarities(
        make_contrast(level),
        batch,
        rejected=(rejected, heard(states)),
    )
    count = len(batch.kept)
    pool = (lambda b, x: x) if level == "token" else mean_by_document
    student, teacher = pool(batch, draw(count, 5, 0)), pool(batch, draw(count, 4, 1))
    check(found, student, teacher, pool(rejected, states))
    assert found.student_teacher.shape[1] > found.student_teacher.shape[0]


def test_queue_holds_the_newest_states_first_in_first_out():
    """A queue that keeps the oldest contrasts against the first batch for ever."""
    queue = TeacherQueue(5)
    states = draw(9, 4, 0)
    for part in (states[:2], states[2:4], states[4:9]):
        queue.push(part)
        assert len(queue.states) <= 5
    assert torch.equal(queue.states, states[4:9])
    queue.push(states[:1])
    assert torch.equal(queue.states, torch.cat([states[5:9], states[:1]]))
    queue.push(states)  # more than it holds
    assert torch.equal(queue.states, states[4:9])


def test_queue_of_size_zero_holds_nothing():
    """`states[-0:]` is everything: the queue would grow until the memory is full."""
    queue = TeacherQueue(0)
    queue.push(draw(3, 4, 0))
    assert queue.states is None


def test_queue_keeps_its_states_when_the_batch_is_changed_in_place():
    """A view into the teacher's buffer would show the next batch under the last one's name."""
    queue, states = TeacherQueue(4), draw(4, 4, 0).requires_grad_()
    queue.push(states)
    states.data.zero_()
    assert not queue.states.requires_grad
    assert torch.equal(queue.states, draw(4, 4, 0))


def test_queue_adds_the_past_batches_as_negatives_and_not_the_present_one():
    """The batch's own states pushed first would stand twice among the candidates, each anchor its own negative."""
    contrast, batch = make_contrast(queue=5), make_batch([6, 4], [2, 1])
    first = similarities(contrast, batch, seed=0)
    assert first.student_teacher.shape == (7, 7)
    second = similarities(contrast, batch, seed=10)
    check(second, draw(7, 5, 10), draw(7, 4, 11), draw(7, 4, 1)[2:])  # the newest five of the first batch
    assert torch.equal(contrast.queue.states, draw(7, 4, 11)[2:])


def test_evaluation_neither_reads_nor_fills_the_queue():
    """Evaluation data would become negatives of training, and an evaluation's value would move as the queue fills."""
    contrast, batch = make_contrast(queue=5), make_batch([6, 4], [2, 1])
    similarities(contrast, batch)
    before = contrast.queue.states.clone()
    found = similarities(contrast, batch, seed=10, use_queue=False)
    check(found, draw(7, 5, 10), draw(7, 4, 11))
    assert torch.equal(contrast.queue.states, before)


@pytest.mark.parametrize(("level", "lengths", "prompts"), [("sequence", [9], [1]), ("token", [4, 4], [4, 3])])
def test_fewer_than_two_anchors_give_no_term_and_say_so_once(level, lengths, prompts, caplog):
    """One candidate's loss is 0 for ever: logged as a number it looks learnt."""
    candidates._say_too_few.cache_clear()
    contrast = make_contrast(level, queue=8)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert similarities(contrast, make_batch(lengths, prompts)) is None
    assert len([r for r in caplog.records if "fewer than 2" in r.message]) == 1


def test_gram_is_kept_while_the_head_is_frozen_and_renewed_while_it_trains():
    """A stale Gram compares with a head that is gone; a renewed one costs more than the step under PEFT."""
    batch, weight = make_batch([5, 5], [1, 1]), STUDENT_HEAD.weight.clone()
    student, teacher = draw(8, 5, 0), draw(8, 4, 1)

    def cosines(contrast: Contrast, scale: float) -> Tensor:
        weight.data.copy_(STUDENT_HEAD.weight)
        weight.data[:, 0] *= scale
        return contrast.similarities(batch, student, LinearHead(weight), heard(teacher)).student_teacher

    frozen, training = make_contrast(), make_contrast()
    assert torch.equal(cosines(frozen, 1.0), cosines(frozen, 9.0).detach())
    weight.requires_grad_()
    assert not torch.allclose(cosines(training, 1.0), cosines(training, 9.0))


def test_half_precision_states_are_compared_in_float32():
    """In bfloat16 a cosine has two digits, and centring takes one of them."""
    batch = make_batch([5, 5], [1, 1])
    student, teacher = draw(8, 5, 0).bfloat16(), draw(8, 4, 1).bfloat16()
    heads = [LinearHead(head.weight.float()) for head in (STUDENT_HEAD, TEACHER_HEAD)]
    found = make_contrast().similarities(batch, student, heads[0], heard(teacher, heads[1]))
    assert found.student_teacher.dtype == torch.float32
    wanted = expected(student.double(), teacher.double())[0]
    torch.testing.assert_close(found.student_teacher.double(), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("trains", [False, True])
def test_a_head_that_trains_is_told_that_it_gets_no_gradient(trains, caplog):
    """A user who trains the head expects each term to move it; this one silently does not."""
    candidates._say_no_gradient.cache_clear()
    weight = STUDENT_HEAD.weight.clone().requires_grad_(trains)
    batch = make_batch([6, 5], [2, 2])
    student = draw(len(batch.kept), 5, 0).requires_grad_()
    contrast = make_contrast()
    for _ in range(2):
        found = contrast.similarities(batch, student, LinearHead(weight), heard(draw(len(batch.kept), 4, 1)))
    assert caplog.text.count("the model's head trains, and this term gives it no gradient") == int(trains)
    wanted = torch.autograd.grad(
        found.student_teacher.square().sum(), [student, weight][: 1 + trains], allow_unused=True
    )
    assert wanted[0].abs().sum() > 0 and (not trains or wanted[1] is None)
