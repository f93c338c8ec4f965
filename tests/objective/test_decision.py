# SPDX-License-Identifier: Apache-2.0
"""Contrast where an answer is decided, against a loop over documents with full-vocabulary logits in float64."""

import inspect
import logging
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from hf_ckt.discovery import load_part
from hf_ckt.kernels.signals import MixedSignal, Mixture, SignalPart, TeacherSignal
from hf_ckt.models.batch import Batch
from hf_ckt.objective import candidates
from hf_ckt.objective.candidates import Contrast, TeacherQueue, decisions, sides_of
from hf_ckt.views import LinearHead

VOCAB, STUDENT_WIDTH = 12, 5
WIDTHS = {"safety": 4, "base": 3}
LOSSES = ("info_nce", "supervised_contrastive", "sincere", "relational_kl")


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


STUDENT_HEAD = draw(VOCAB, STUDENT_WIDTH, seed=1)
TEACHER_HEADS = {name: draw(VOCAB, width, seed=2 + width) for name, width in WIDTHS.items()}


class Document(NamedTuple):
    """Which of its tokens count, the teacher that it is given, and each model's states at all of its tokens."""

    counts: list[bool]
    teacher: str
    student: Tensor
    states: Tensor


def document(pattern: str, teacher: str = "safety", seed: int = 0) -> Document:
    """`..xx.x` is a prompt of two tokens, an answer of two, and a second turn of one and one."""
    length = len(pattern)
    return Document(
        [letter == "x" for letter in pattern],
        teacher,
        draw(length, STUDENT_WIDTH, seed=100 + seed),
        draw(length, WIDTHS[teacher], seed=500 + seed),
    )


def documents(*patterns: str, teachers: str = "", seed: int = 0) -> list[Document]:
    """`teachers` holds a letter a document: `s` for the safety teacher, `b` for the base."""
    names = {"s": "safety", "b": "base"}
    letters = teachers or "s" * len(patterns)
    return [
        document(pattern, names[letter], seed + n)
        for n, (pattern, letter) in enumerate(zip(patterns, letters, strict=True))
    ]


# Of one turn and of several; of a prompt of one token; none of whose tokens count, and before its neighbour all.
PATTERNS = ("...xxx", ".xx", "..x..xx.x", "....", "xxxx", "......xxxxx")


class Laid(NamedTuple):
    batch: Batch
    student: Tensor
    parts: tuple[SignalPart, ...]


def lay_out(docs: list[Document], layout: str) -> Laid:
    """A batch of documents, the student's states at its kept positions, and what the teachers say there."""
    lengths = [len(doc.counts) for doc in docs]
    one_row = layout in ("packed", "padding-free")
    width = sum(lengths) if one_row else max(lengths) + 2
    rows, starts = ([0] * len(docs), [sum(lengths[:n]) for n in range(len(docs))]) if one_row else ([], [])
    if not one_row:
        rows = list(range(len(docs)))
        starts = [width - length if layout == "padded on the left" else 0 for length in lengths]
    shape = (max(rows) + 1, width)
    labels, routes = torch.full(shape, -100), torch.zeros(shape, dtype=torch.long)
    mask, positions = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    student = draw(*shape, STUDENT_WIDTH, seed=77)  # padding has states too
    owner = torch.full(shape, -1)
    for n, (doc, row, start) in enumerate(zip(docs, rows, starts, strict=True)):
        for t, counted in enumerate(doc.counts):
            place = row, start + t
            labels[place] = 3 if counted else -100
            routes[place] = int(counted) * list(WIDTHS).index(doc.teacher)
            mask[place], positions[place], student[place], owner[place] = 1, t, doc.student[t], n
    inputs: dict[str, Any] = {"input_ids": torch.ones(shape, dtype=torch.long)}
    if not one_row:
        inputs["attention_mask"] = mask
    elif layout == "packed":
        inputs["position_ids"] = positions
    else:
        inputs["cu_seq_lens_q"] = torch.tensor([0, *torch.tensor(lengths).cumsum(0)])
    several = len({doc.teacher for doc in docs}) > 1
    batch = Batch(inputs, labels, routes if several else None)
    parts = []
    for name in WIDTHS if several else [docs[0].teacher]:
        head = LinearHead(TEACHER_HEADS[name])
        places, states = [], []
        for n, flat in enumerate(batch.kept.tolist()):
            row, column = divmod(flat, width)
            number = int(owner[row, column])
            if number < 0:  # padding before a text, at which a teacher may say anything
                number = 0 if docs[0].teacher == name else -1
                states += [draw(WIDTHS[name], seed=flat)] if number == 0 else []
                places += [n] if number == 0 else []
            elif docs[number].teacher == name:
                places.append(n)
                states.append(docs[number].states[column - starts[number]])
        signal = TeacherSignal(torch.stack(states), head)
        parts.append(SignalPart(name if several else "", torch.tensor(places), signal))
    return Laid(batch, batch.keep(student), tuple(parts))


class Decision(NamedTuple):
    student: Tensor  # logits over the vocabulary
    teacher: Tensor
    side: str


def decided(docs: list[Document]) -> list[Decision]:
    found = []
    for doc in docs:
        first = next((t for t in range(len(doc.counts) - 1) if doc.counts[t + 1]), None)
        if first is not None:
            teacher = TEACHER_HEADS[doc.teacher] @ doc.states[first]
            found.append(Decision(STUDENT_HEAD @ doc.student[first], teacher, doc.teacher))
    return found


def by_loop(
    name: str, docs: list[Document], queued: Sequence[Decision] = (), temperature: float = 0.3, threshold: float = 0.5
) -> list[float]:
    """The loss of each document, of logits alone."""
    anchors = decided(docs)
    sided = len({doc.teacher for doc in docs}) > 1
    means = [sum(one) / len(anchors) for one in zip(*[(a.student, a.teacher) for a in anchors], strict=True)]

    def cosine(one: Tensor, other: Tensor) -> float:
        one, other = one - one.mean(), other - other.mean()
        return float(one @ other / math.sqrt(one @ one) / math.sqrt(other @ other))

    values = []
    for i, anchor in enumerate(anchors):
        students, teachers, same = [], [], []
        for j, candidate in enumerate([*anchors, *queued]):
            students.append(cosine(anchor.student - means[0], candidate.teacher - means[1]))
            teachers.append(cosine(anchor.teacher - means[1], candidate.teacher - means[1]))
            alike = candidate.side == anchor.side if sided else teachers[j] > threshold
            same.append(alike or j == i)
        weights = [math.exp(value / temperature) for value in students]
        if name == "info_nce":
            total = sum(w for j, w in enumerate(weights) if j == i or not same[j])
            values.append(-math.log(weights[i] / total))
        elif name in ("supervised_contrastive", "sincere"):
            own = [j for j in range(len(same)) if same[j]]
            others = sum(w for j, w in enumerate(weights) if not same[j])
            totals = [sum(weights) if name == "supervised_contrastive" else weights[j] + others for j in own]
            values.append(sum(-math.log(weights[j] / whole) for j, whole in zip(own, totals, strict=True)) / len(own))
        else:
            targets = [math.exp(value / temperature) for value in teachers]
            pairs = [(t / sum(targets), w / sum(weights)) for t, w in zip(targets, weights, strict=True)]
            values.append(sum(p * math.log(p / q) for p, q in pairs))
    return values


def loss_of(name: str) -> Any:
    threshold = {} if name == "relational_kl" else {"false_negative_threshold": 0.5}
    return load_part("losses", name)(temperature=0.3, **threshold)


def contrast(queue: int = 0, max_anchors: int = 100) -> Contrast:
    return Contrast("decision", max_anchors, TeacherQueue(queue))


def similarities(laid: Laid, one: Contrast | None = None, **options: Any) -> Any:
    return (one or contrast()).similarities(laid.batch, laid.student, LinearHead(STUDENT_HEAD), laid.parts, **options)


LAYOUTS = ("padded", "padded on the left", "packed", "padding-free")
each_layout = pytest.mark.parametrize("layout", LAYOUTS)
each_loss = pytest.mark.parametrize("name", LOSSES)


@each_layout
@each_loss
@pytest.mark.parametrize("teachers", ["", "sbbssb"])
def test_decision_contrast_equals_a_loop_over_documents(teachers, name, layout):
    """The last kept position, a later turn's, padding's or a neighbour's in the pack decides nothing, and trains all the same."""
    docs = documents(*PATTERNS, teachers=teachers)
    found = loss_of(name).per_anchor(similarities(lay_out(docs, layout)))
    assert found.tolist() == pytest.approx(by_loop(name, docs), rel=1e-9)
    assert len(found) == 5  # one document has no kept position


@each_layout
def test_decisions_are_the_first_kept_position_within_each_document(layout):
    """Where a document's first token counts, what stands before it, of another document or padding, would be its decision."""
    batch = lay_out(documents(*PATTERNS), layout).batch
    flat = batch.kept[decisions(batch)]
    positions = batch.documents.positions.flatten()[flat].tolist()
    assert positions == [2, 0, 1, 0, 5]
    assert batch.documents.mask.flatten()[flat].all()


def test_batch_without_a_kept_token_has_no_decision():
    """Its positions are none, of which the first is looked for."""
    batch = lay_out(documents("...xx", "..x"), "padded").batch
    empty = Batch(batch.inputs, torch.full_like(batch.labels, -100))
    assert decisions(empty).tolist() == []


@pytest.mark.parametrize("size", [3, 50])
@each_loss
def test_queue_keeps_each_states_side(size, name):
    """A refusal of the last batch without its side is a negative of this batch's refusals."""
    first, second = documents(*PATTERNS, teachers="sbbssb"), documents(*PATTERNS, teachers="bssbbs", seed=40)
    one = contrast(queue=size)
    similarities(lay_out(first, "padded"), one)
    found = similarities(lay_out(second, "packed"), one)
    queued = decided(first)[-size:]
    assert found.same_side.shape == found.student_teacher.shape == (5, 5 + len(queued))
    assert loss_of(name).per_anchor(found).tolist() == pytest.approx(by_loop(name, second, queued), rel=1e-9)
    assert len(one.queue.sides) == len(one.queue.states) == min(size, 10)
    numbers = [0 if one.side == "safety" else 1 for one in decided(first) + decided(second)]
    assert one.queue.sides.tolist() == numbers[-size:]


def test_queue_drops_states_of_which_no_side_is_known(caplog):
    """A queue that an old checkpoint filled would be negatives of everyone, refusals of refusals too."""
    one = contrast(queue=8)
    laid = lay_out(documents("..x", "...x", ".xx", teachers="sbs"), "padded")
    similarities(laid, one)
    one.queue.sides = None
    with caplog.at_level(logging.WARNING):
        found = similarities(laid, one)
    assert found.student_teacher.shape == (3, 3) and one.queue.sides.tolist() == [0, 1, 0]
    assert "holds 3 states of a run without sides" in caplog.text
    one.queue.clear()
    assert one.queue.states is one.queue.sides is None


def test_states_without_sides_join_no_sides():
    """Sides that outlive their states would be those of others."""
    queue = TeacherQueue(4)
    queue.push(draw(3, 2, seed=0), torch.tensor([0, 1, 1]))
    queue.push(draw(2, 2, seed=1))
    assert len(queue.states) == 4 and queue.sides is None
    TeacherQueue(0).push(draw(3, 2, seed=0), torch.tensor([0, 1, 1]))


def test_evaluation_leaves_the_queues_sides_alone():
    """Pushed without its states, a side would be read at another's place from then on."""
    one, laid = contrast(queue=8), lay_out(documents("..x", "...x", ".xx", teachers="sbs"), "padded")
    similarities(laid, one)
    found = similarities(laid, one, use_queue=False)
    assert found.same_side.shape == (3, 3) and len(one.queue.sides) == 3


def test_sides_are_those_of_the_documents_by_hand():
    """Sides one document off mask the own side's positive of another."""
    docs = documents("..xx", "xxx", "....", ".x", "...x", teachers="sbbbs")
    for layout in LAYOUTS:
        found = similarities(lay_out(docs, layout))
        same, other = True, False
        assert found.same_side.tolist() == [
            [same, other, other, same],
            [other, same, same, other],
            [other, same, same, other],
            [same, other, other, same],
        ]
    assert similarities(lay_out(documents("..xx", ".x"), "packed")).same_side is None  # one teacher: nothing says it


def test_sides_of_a_mixture_are_those_of_the_teacher_with_more_weight():
    """A soft route names no teacher of a row; without sides two refusals would push each other away."""
    laid = lay_out(documents("..xx", "xxx", "....", ".x", "...x"), "packed")
    (part,) = laid.parts
    positions, signal = part.positions, part.signal
    odds = {0: 2.0, 1: -0.1, 3: -3.0, 4: 0.1}  # by document; the third has no answer
    log_odds = torch.tensor([odds[number] for number in laid.batch.kept_documents.tolist()])
    mixed = MixedSignal(signal.hidden, signal.head, signal, Mixture(log_odds))
    found = sides_of(laid.batch, (SignalPart("", positions, mixed),))
    assert found[laid.batch.kept_inside].tolist() == [
        int(odds[number] > 0) for number in laid.batch.kept_documents[laid.batch.kept_inside].tolist()
    ]


def test_sides_are_read_at_the_decision_level_alone():
    """Runs of several teachers at another level would have other losses than before there were sides."""
    laid = lay_out(documents("..xx", "..x", teachers="sb"), "padded")
    for level in ("token", "sequence"):
        one = Contrast(level, 100, TeacherQueue(8))
        assert similarities(laid, one).same_side is None and one.queue.sides is None


def test_rows_that_do_not_count_have_no_decision():
    """Where a role leaves a document out, its next kept position must not stand in."""
    docs = documents("..xx", ".xxx", "...x", ".x", teachers="sbsb")
    laid = lay_out(docs, "packed")
    counts = laid.batch.kept_documents != 1
    found = similarities(laid, counts=counts)
    kept = [doc for n, doc in enumerate(docs) if n != 1]
    assert loss_of("info_nce").per_anchor(found).tolist() == pytest.approx(by_loop("info_nce", kept), rel=1e-9)
    # Not at the first position of the second document, though at the later ones.
    late = torch.ones_like(counts)
    late[int((~counts).nonzero()[0])] = False
    torch.testing.assert_close(similarities(laid, counts=late).student_teacher, found.student_teacher)


def test_where_no_teacher_speaks_at_the_decision_there_is_none():
    """The next position at which it does speak is no decision, and would be taken for one."""
    docs = documents("..xx", ".xxx", "...x", ".x")
    laid = lay_out(docs, "packed")
    silent = int((laid.batch.kept_documents == 1).nonzero()[0])
    (part,) = laid.parts
    heard = (part.positions != silent).nonzero()[:, 0]
    spoken = part._replace(positions=part.positions[heard], signal=part.signal.select(heard))
    found = similarities(laid._replace(parts=(spoken,)))
    kept = [doc for n, doc in enumerate(docs) if n != 1]
    assert loss_of("info_nce").per_anchor(found).tolist() == pytest.approx(by_loop("info_nce", kept), rel=1e-9)


def test_rejected_answers_are_further_candidates_with_their_sides():
    """For loops of one's own, whose rejected answers may stand behind other prompts."""
    docs, others = documents("..xx", ".xx", "...x", teachers="sbs"), documents(".x", "..xx", teachers="bs", seed=60)
    rejected = lay_out(others, "packed")
    found = similarities(lay_out(docs, "padded"), rejected=(rejected.batch, rejected.parts))
    for name in LOSSES:
        expected = by_loop(name, docs, decided(others))
        assert loss_of(name).per_anchor(found).tolist() == pytest.approx(expected, rel=1e-9)


def test_max_anchors_spaces_states_and_sides_alike():
    """Sides of other documents than the states."""
    docs = documents(*(["..x"] * 9), teachers="sbbsbsssb")
    picked = [docs[n * 9 // 4] for n in range(4)]
    found = similarities(lay_out(docs, "packed"), contrast(max_anchors=4))
    assert loss_of("info_nce").per_anchor(found).tolist() == pytest.approx(by_loop("info_nce", picked), rel=1e-9)


@each_loss
@pytest.mark.parametrize("teachers", ["", "sbbssb"])
def test_decision_gradient_agrees_with_finite_differences(teachers, name):
    """Of the student's states at all kept positions: those that decide nothing have none."""
    laid, loss = lay_out(documents(*PATTERNS, teachers=teachers), "packed"), loss_of(name)

    def total(student: Tensor) -> Tensor:
        return loss.per_anchor(similarities(laid._replace(student=student))).mean()

    student = laid.student.clone().requires_grad_()
    assert torch.autograd.gradcheck(total, (student,))
    (slope,) = torch.autograd.grad(total(student), student)
    moved = slope.abs().sum(1) > 0
    assert moved.tolist() == decisions(laid.batch).tolist()


def test_one_side_alone_trains_nothing_by_info_nce():
    """All candidates are false negatives: the loss is exactly 0 and connected, not NaN."""
    docs = documents("..x", "...x", ".xx", teachers="sss")
    laid = lay_out(docs, "padded")
    # A routed teacher without a document of this batch has a part all the same.
    silent = TeacherSignal(torch.zeros(0, 3, dtype=torch.float64), LinearHead(TEACHER_HEADS["base"]))
    parts = (laid.parts[0]._replace(teacher="safety"), SignalPart("base", torch.zeros(0, dtype=torch.long), silent))
    student = laid.student.clone().requires_grad_()
    found = similarities(laid._replace(student=student, parts=parts))
    assert found.same_side.all()
    value = loss_of("info_nce").per_anchor(found).mean()
    assert value.item() == 0 and torch.autograd.grad(value, student)[0].abs().max() == 0


def test_one_document_gives_no_term(caplog):
    """Its one candidate is its positive: a loss of 0 that looks learnt."""
    candidates._say_too_few.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert similarities(lay_out(documents("..xxx", "...."), "packed"), contrast(queue=4)) is None
    assert "fewer than 2 decision anchors" in caplog.text


@pytest.mark.parametrize(("patterns", "said"), [(("xxxx", "xxx"), 1), (("xxxx", ".xx"), 1), (("xxxx", "..xx"), 0)])
def test_documents_without_a_prompt_are_told_once(patterns, said, caplog):
    """Each text's first token decides nothing: with a template it is the same in all, and so are the states."""
    candidates._say_no_prompt.cache_clear()
    one = contrast()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            similarities(lay_out(documents(*patterns), "padded"), one)
    assert caplog.text.count("nothing of a prompt is read") == said


def test_a_first_batch_in_which_nothing_counts_does_not_say_that_prompts_are_missing(caplog):
    """It has no document to look at: the next one is looked at in its place."""
    candidates._say_no_prompt.cache_clear()
    one = contrast()
    with caplog.at_level(logging.WARNING):
        laid = lay_out(documents("xxxx", "xxx"), "padded")
        (part,) = laid.parts
        silent = part._replace(positions=part.positions[:0], signal=part.signal.select(part.positions[:0]))
        nothing = Batch(laid.batch.inputs, torch.full_like(laid.batch.labels, -100))
        similarities(Laid(nothing, laid.student[:0], (silent,)), one)
        assert "nothing of a prompt is read" not in caplog.text
        similarities(laid, one)
    assert "nothing of a prompt is read" in caplog.text


def in_decisions(original: str, fault: str) -> Any:
    """Replaces a text of the function that finds decisions."""

    def put_in(patch: pytest.MonkeyPatch) -> None:
        source = inspect.getsource(decisions)
        assert source.count(original) == 1, f"the source has changed: name the fault in its new words ({original!r})"
        found: dict[str, Any] = {}
        exec(compile(source.replace(original, fault), "faulty source", "exec"), vars(candidates), found)
        patch.setattr(candidates, "decisions", found["decisions"])

    return put_in


def last_kept(patch: pytest.MonkeyPatch) -> None:
    def last(batch: Batch) -> Tensor:
        numbers = batch.kept_documents
        return batch.kept_inside & torch.cat([numbers[1:] != numbers[:-1], torch.ones(1, dtype=torch.bool)])

    patch.setattr(candidates, "decisions", last)


def forgotten_sides(patch: pytest.MonkeyPatch) -> None:
    push = TeacherQueue.push
    patch.setattr(TeacherQueue, "push", lambda self, states, sides=None: push(self, states))


def sides_of_the_batch(patch: pytest.MonkeyPatch) -> None:
    push = TeacherQueue.push
    patch.setattr(TeacherQueue, "push", lambda self, states, sides=None: push(self, states, torch.zeros_like(sides)))


FAULTS = {
    "the last kept position": last_kept,
    "padding counts": in_decisions(" & documents.mask.flatten()[batch.kept]", ""),
    "a neighbour's first token is decided": in_decisions("batch.kept_inside & ", ""),
    "each answer token decides": in_decisions("within & (order == earliest[numbers])", "within"),
    "the queue forgets its sides": forgotten_sides,
    "the queue's sides are one": sides_of_the_batch,
}


def check_all() -> None:
    for layout in LAYOUTS:
        test_decision_contrast_equals_a_loop_over_documents("sbbssb", "info_nce", layout)
    test_queue_keeps_each_states_side(50, "info_nce")


@pytest.mark.parametrize("fault", list(FAULTS))
def test_fault_put_in_is_caught(fault, monkeypatch):
    """A comparison that a broken anchor or queue passes holds nothing."""
    check_all()
    FAULTS[fault](monkeypatch)
    with pytest.raises(AssertionError):
        check_all()
