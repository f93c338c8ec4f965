# SPDX-License-Identifier: Apache-2.0
"""The factors of a role's loss, counted with plain numbers: their mean, what is left out of it, and several teachers."""

import math
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from hf_ckt.kernels.signals import MappedSignal, RoutedSignal, SignalPart, TeacherSignal, TopKSignal, signal_parts
from hf_ckt.losses.forward_kl import ForwardKLLoss
from hf_ckt.losses.nll import NLLLoss
from hf_ckt.models.batch import Batch
from hf_ckt.objective.objective import Objective, Scale, Term
from hf_ckt.objective.partition import HiddenStates
from hf_ckt.objective.schedules import Schedule
from hf_ckt.objective.token_weighting import TokenWeighting
from hf_ckt.token_weights.base import TokenWeights
from hf_ckt.token_weights.position_decay import PositionDecayTokenWeights
from hf_ckt.token_weights.teacher_divergence import TeacherDivergenceTokenWeights
from hf_ckt.views import LinearHead, NoisyStates
from tests.losses.loops import kl, softmax
from tests.teachers import two_vocabularies

COUNT, VOCAB = 9, 7
DECAY = [0.1 + 0.9 * 2 ** (-n / 2) for n in range(3)]


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


HEAD, WIDE = LinearHead(draw(VOCAB, 5)), LinearHead(draw(VOCAB + 2, 4, seed=1))
STUDENT, BASE, TEACHER = draw(COUNT, 5, seed=2), draw(COUNT, 5, seed=3), 2 * draw(COUNT, 4, seed=4)


def batch():
    """Three rows of four tokens, of which three count."""
    ids = torch.arange(12).view(3, 4) % VOCAB
    labels = ids.clone()
    labels[:, 0] = -100
    return Batch({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, labels)


def states(signal=None, **changes):
    signal = TeacherSignal(TEACHER, WIDE) if signal is None else signal
    heads = {"student": HEAD, "noisy": HEAD, "reference": HEAD}
    hidden = {"student": STUDENT, "reference": BASE}
    return HiddenStates(hidden, heads, NoisyStates.nowhere(STUDENT), signal_parts(signal, COUNT), **changes)


def distances(head=WIDE, hidden=TEACHER, base=BASE):
    """Total variation of teacher and base at each position, a number at a time."""
    found = []
    for one, other in zip(hidden @ head.weight.T, base @ HEAD.weight.T, strict=True):
        p, q = softmax(one[:VOCAB].tolist()), softmax(other[:VOCAB].tolist())
        found.append(0.5 * math.fsum(abs(a - b) for a, b in zip(p, q, strict=True)))
    return found


def factors(weights, counts=None):
    counts = [True] * len(weights) if counts is None else counts
    mean = math.fsum(w for w, one in zip(weights, counts, strict=True) if one) / sum(counts)
    return [weight / mean for weight in weights]


def floored(values, floor=0.1):
    return [floor + (1 - floor) * value for value in values]


def weigh(part, given=None, role="task", taught=(), chunk_size=2):
    return TokenWeighting({role: part}, taught)(given or states(), batch(), chunk_size=chunk_size)[role]


def same(found, expected, rel=1e-6):
    assert found.tolist() == pytest.approx(expected, rel=rel)


def test_factors_are_the_weights_divided_by_their_mean():
    """Without the mean, a floor of 0.1 would be a loss of a tenth the size, and the balance of the terms another."""
    for part, weights in (
        (PositionDecayTokenWeights(half_life=2.0), DECAY * 3),
        (TeacherDivergenceTokenWeights(), floored(distances())),
        (TeacherDivergenceTokenWeights(floor=0.0), distances()),
    ):
        found = weigh(part)
        same(found, factors(weights))
        assert found.mean().item() == pytest.approx(1, rel=1e-6)
        assert max(weights) / min(weights) > 1.2  # they do differ


def test_what_a_role_leaves_out_is_left_out_of_its_mean():
    """Rows of another role would decide how strongly this one trains."""
    mask = torch.tensor([True] * 3 + [False] * 4 + [True] * 2)
    for part, weights in (
        (PositionDecayTokenWeights(half_life=2.0), DECAY * 3),
        (TeacherDivergenceTokenWeights(), floored(distances())),
    ):
        given = states(role_masks={"task": mask})
        found = weigh(part, given)
        same(found[mask], [f for f, one in zip(factors(weights, mask.tolist()), mask, strict=True) if one])
        assert found[mask].mean().item() == pytest.approx(1, rel=1e-6)
        given.token_weights = {"task": found}
        assert given.factors()["task"][~mask].count_nonzero() == 0
        torch.testing.assert_close(given.factors()["task"][mask], found[mask])


def routed():
    """One teacher at four positions, the base itself at three, none at two; the positions of a teacher in no row of their own."""
    own, base, rest = torch.tensor([0, 3, 4, 8]), torch.tensor([1, 2, 7]), [5, 6]
    parts = (
        SignalPart("safety", own, TeacherSignal(TEACHER[own], WIDE)),
        SignalPart("base", base, TeacherSignal(BASE[base], HEAD)),
    )
    return RoutedSignal(parts), own.tolist(), base.tolist(), rest


def test_several_teachers_are_normalised_each_by_itself():
    """The rows of the base, from which it nowhere differs, would lose nearly all their weight to the other teacher's."""
    signal, own, base, rest = routed()
    found = weigh(TeacherDivergenceTokenWeights(), states(signal))
    same(found[own], factors([floored(distances())[i] for i in own]))
    same(found[[*base, *rest]], [1.0] * 5)
    assert found.mean().item() == pytest.approx(1, rel=1e-6)


def test_where_no_teacher_speaks_distillation_counts_no_position():
    """The mean over positions at which nothing is learnt would leave the others another size."""
    signal = routed()[0]
    part, spoken = PositionDecayTokenWeights(half_life=2.0), [i not in (5, 6) for i in range(COUNT)]
    found = weigh(part, states(signal), "distillation", ["distillation"])
    same(found, factors(DECAY * 3, spoken))
    same(weigh(part, states(signal), "task", []), factors(DECAY * 3))
    nobody = RoutedSignal((SignalPart("", torch.arange(0), TeacherSignal(TEACHER[:0], WIDE)),))
    same(weigh(TeacherDivergenceTokenWeights(), states(nobody)), [1.0] * COUNT)


def test_perturbed_positions_weigh_what_the_others_do():
    """A batch of which half is perturbed is computed in two parts, each of which would have a mean of its own."""
    noisy = NoisyStates(draw(3, 5, seed=8).requires_grad_(), torch.tensor([0, 1, 2]), 0.5)
    given = states()
    given.noisy = noisy
    same(weigh(TeacherDivergenceTokenWeights(), given), factors(floored(distances())))


@dataclass(eq=False)
class NothingTokenWeights(TokenWeights):
    """Weighs no token."""

    needs: ClassVar[frozenset[str]] = frozenset()

    def per_token(self, views, positions):
        return torch.zeros(len(views.labels))


def test_positions_are_read_only_by_those_that_ask_for_them():
    """Where a document begins cannot be read off every mask, and a weighting that does not ask for it must not stop there."""
    asked = []

    class OtherTokenWeights(NothingTokenWeights):
        def per_token(self, views, positions):
            asked.append(positions)
            return super().per_token(views, positions)

    which = batch()
    which.inputs["attention_mask"] = object()  # says nothing of documents
    TokenWeighting({"task": OtherTokenWeights()})(states(), which)
    TokenWeighting({"task": TeacherDivergenceTokenWeights()})(states(), which)
    both = {"task": OtherTokenWeights(), "distillation": PositionDecayTokenWeights()}
    with pytest.raises(ValueError, match="attention_mask: is a object"):
        TokenWeighting(both)(states(), which)
    TokenWeighting(both)(states(), batch())
    assert asked == [None, None]


def test_weights_that_are_all_0_count_every_token_alike():
    """0 / 0 would be NaN in every weight of the model after one step."""
    same(weigh(NothingTokenWeights()), [1.0] * COUNT)
    same(weigh(TeacherDivergenceTokenWeights(floor=0.0), states(TeacherSignal(BASE, HEAD))), [1.0] * COUNT)
    given = states(role_masks={"task": torch.zeros(COUNT, dtype=torch.bool)})
    same(weigh(PositionDecayTokenWeights(), given), [1.0] * COUNT)


def test_a_top_k_teacher_is_compared_over_its_buckets():
    """Over the whole vocabulary there is nothing to compare with; the rest left out, a teacher would differ by its tail."""
    logits = TEACHER @ WIDE.weight.T
    named = logits.log_softmax(-1).topk(3)
    ids = named.indices.clone()
    expected = []
    for row in range(COUNT):
        base = softmax((BASE @ HEAD.weight.T)[row].tolist())
        teacher = {int(i): math.exp(v) for i, v in zip(ids[row], named.values[row], strict=True) if i < VOCAB}
        gaps = [abs(p - base[i]) for i, p in teacher.items()]
        gaps.append(abs((1 - math.fsum(teacher.values())) - (1 - math.fsum(base[i] for i in teacher))))
        expected.append(0.5 * math.fsum(gaps))
    found = weigh(TeacherDivergenceTokenWeights(), states(TopKSignal(ids, named.values)))
    same(found, factors(floored(expected)), rel=1e-5)


def test_a_teacher_with_another_vocabulary_is_compared_over_shared_tokens():
    """Id by id two vocabularies differ everywhere, and the weights would be those of chance."""
    which = two_vocabularies.batch()
    student, head = two_vocabularies.student_states(which)
    signal = two_vocabularies.teacher().signal(which, None)
    (part,) = signal_parts(signal, len(student))
    assert isinstance(part.signal, MappedSignal)
    heads = dict.fromkeys(("student", "noisy", "reference"), head)
    given = HiddenStates({"student": student + 1, "reference": student}, heads, NoisyStates.nowhere(student), (part,))
    found = TokenWeighting({"task": TeacherDivergenceTokenWeights()})(given, which, chunk_size=2)["task"]
    expected = []
    for position in two_vocabularies.MATCHES:
        p, q, _, _ = two_vocabularies.buckets(position)
        expected.append(0.5 * math.fsum(abs(a - b) for a, b in zip(p, q, strict=True)))
    known = found[[*two_vocabularies.MATCHES]]
    same(known / known.mean(), factors(floored(expected)))
    assert found[part.positions].mean().item() == pytest.approx(1, rel=1e-6)
    silent = [i for i in range(len(student)) if i not in part.positions.tolist()]
    assert silent
    same(found[silent], [1.0] * len(silent))


def objective(**weights):
    losses = {"task": NLLLoss(), "distillation": ForwardKLLoss()}
    terms = {role: Term(loss, Schedule(1.0), weights.get(role)) for role, loss in losses.items()}
    return Objective(terms, chunk_size=2, compile=False)


@pytest.mark.parametrize("masked", [False, True])
def test_loss_and_gradient_are_those_of_weighted_sums(masked):
    """A factor of one role that reaches the other, or a mean in place of the sum, moves the balance of the two."""
    student = STUDENT.clone().requires_grad_()
    mask = torch.tensor([True] * 5 + [False] * 4)
    given = states(role_masks={"task": mask} if masked else {})
    given.hidden["student"] = student
    chosen = {"task": PositionDecayTokenWeights(half_life=2.0), "distillation": TeacherDivergenceTokenWeights()}
    output = objective(**chosen)(given, batch(), torch.nn.Linear(1, 1), Scale(0.0, num_items=20), training=True)
    counts = mask.tolist() if masked else [True] * COUNT
    task = [f if one else 0.0 for f, one in zip(factors(DECAY * 3, counts), counts, strict=True)]
    distilled = factors(floored(distances()))
    log_probs = (student @ HEAD.weight.T).log_softmax(-1)
    teacher = (TEACHER @ WIDE.weight.T)[:, :VOCAB].log_softmax(-1)
    nll = -log_probs.gather(1, batch().kept_labels[:, None])[:, 0]
    divergence = (teacher.exp() * (teacher - log_probs)).sum(-1)
    sums = (torch.tensor(task) * nll).sum(), (torch.tensor(distilled) * divergence).sum()
    torch.testing.assert_close(output.loss, sum(sums) / 20, rtol=1e-6, atol=0)
    found, expected = (torch.autograd.grad(loss, student)[0] for loss in (output.loss, sum(sums) / 20))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-8)
    for role, total, count in (("task", sums[0], sum(counts)), ("distillation", sums[1], COUNT)):
        assert output.sums[f"{role}_loss"].tolist() == pytest.approx([total.item(), count], rel=1e-6)
    # What is reported weighs every token alike.
    plain = objective()(states(), batch(), torch.nn.Linear(1, 1), Scale(0.0, num_items=20), training=True)
    for name in plain.sums.keys() - {"task_loss", "distillation_loss"}:
        assert torch.equal(output.sums[name], plain.sums[name]), name
    assert kl(softmax(teacher[0].tolist()), softmax(log_probs[0].tolist())) == pytest.approx(divergence[0].item())


def test_a_weighting_asks_for_the_passes_that_it_reads():
    """A view that no pass made stops the first step, and a pass that nobody reads costs one."""
    assert objective().views == {"student", "teacher"}
    assert objective(task=TeacherDivergenceTokenWeights()).views == {"student", "teacher", "reference"}
    alone = {"task": Term(NLLLoss(), Schedule(1.0), PositionDecayTokenWeights())}
    assert Objective(alone).views == {"student"}


def test_equal_weightings_are_computed_once(monkeypatch):
    """Two roles that weigh alike would project teacher and base twice."""
    calls = []
    from hf_ckt.objective import token_weighting

    original = token_weighting.position_values
    monkeypatch.setattr(token_weighting, "position_values", lambda *a, **k: calls.append(1) or original(*a, **k))
    parts = {"task": TeacherDivergenceTokenWeights(), "distillation": TeacherDivergenceTokenWeights()}
    found = TokenWeighting(parts)(states(), batch(), chunk_size=2)
    assert len(calls) == 1 and torch.equal(found["task"], found["distillation"])
    parts["task"] = TeacherDivergenceTokenWeights(floor=0.5)
    found = TokenWeighting(parts)(states(), batch(), chunk_size=2)
    same(found["task"], factors(floored(distances(), 0.5)))
    same(found["distillation"], factors(floored(distances())))


def test_a_batch_in_which_nothing_counts_has_no_factors():
    """Such a batch among thousands would turn the weights into NaN."""
    nothing = Batch({"input_ids": torch.zeros(2, 3).long()}, torch.full((2, 3), -100))
    given = HiddenStates(
        {"student": STUDENT[:0], "reference": BASE[:0]},
        dict.fromkeys(("student", "noisy", "reference"), HEAD),
        NoisyStates.nowhere(STUDENT),
        signal_parts(TeacherSignal(TEACHER[:0], WIDE), 0),
    )
    for part in (TeacherDivergenceTokenWeights(), PositionDecayTokenWeights()):
        assert TokenWeighting({"task": part})(given, nothing, chunk_size=2)["task"].shape == (0,)
    chosen = {"task": PositionDecayTokenWeights(), "distillation": TeacherDivergenceTokenWeights()}
    given.hidden["student"] = STUDENT[:0].clone().requires_grad_()
    output = objective(**chosen)(given, nothing, torch.nn.Linear(1, 1), Scale(0.0), training=True)
    assert output.loss.item() == 0 and output.loss.requires_grad
