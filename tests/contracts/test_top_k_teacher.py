# SPDX-License-Identifier: Apache-2.0
"""
What every token loss and metric keeps when the teacher names its most probable tokens only.

Expected values are the part's own formula, a float at a time, over K + 1 buckets: the named tokens, and all others as one.
"""

import math
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from hf_ckt.discovery import load_part, part_name, part_names
from hf_ckt.kernels import compilation
from hf_ckt.kernels.chunked_linear import TokenLossOutput, run_tiles
from hf_ckt.kernels.signals import TopKSignal
from hf_ckt.kernels.tile_program import TileProgram
from hf_ckt.kernels.top_k_view import TopKView
from hf_ckt.losses.base import PAIRS, Divergence
from hf_ckt.views import LogitsView, TokenViews
from tests.contracts import token_checks as checks
from tests.contracts.own_test import reference_of, said_of
from tests.losses.loops import softmax

LOSSES = {
    key: make
    for key, make in checks.token_losses().items()
    if "teacher" in make().needs and getattr(make(), "temperature", 1.0) == 1.0
}
DIVERGENCES = [key for key, make in LOSSES.items() if isinstance(make(), Divergence)]
METRICS = [name for name in part_names("metrics") if "teacher" in load_part("metrics", name)().needs]

each_loss = pytest.mark.parametrize("key", LOSSES)
each_divergence = pytest.mark.parametrize("key", DIVERGENCES)
each_metric = pytest.mark.parametrize("name", METRICS)


class Given(NamedTuple):
    """A case whose teacher is known by what it names."""

    case: checks.Case
    signal: TopKSignal

    def rows(self, index: Any) -> "Given":
        index = torch.arange(len(self.case.labels))[index]
        return Given(self.case.rows(index), self.signal.select(index))


def named_by(log_probs: Tensor, k: int, fewer: dict[int, int] | None = None) -> TopKSignal:
    """The k most probable of whole distributions; rows in `fewer` name only so many."""
    values, ids = log_probs.topk(k)
    for row, count in (fewer or {}).items():
        ids[row, count:], values[row, count:] = -1, torch.nan
    return TopKSignal(ids, values)


def make_given(k: int = 4, fewer: dict[int, int] | None = None, **options: Any) -> Given:
    """Row 0 names three and row 3 nothing, unless told otherwise."""
    case = checks.make_case(**{"teacher_vocab": 11, **options})
    fewer = {0: k - 1, 3: 0} if fewer is None else fewer
    return Given(case, named_by(case.logits("teacher").log_softmax(-1), k, fewer))


def run(given: Given, parts: dict[Any, float], metrics: Any = (), *, chunk_size: int | None = 4, **options: Any):
    """As the trainer runs them: the kept positions, and of the teacher what it names."""
    case, signal = given.rows(given.case.kept)
    program = TileProgram([(part_name(one), one) for one in parts], [(name, metrics[name]) for name in metrics])
    hidden = {name: getattr(case, name) for name in ("student", "noisy", "reference")}
    heads = {"student": case.head, "noisy": case.head, "reference": case.reference_head}
    weights = torch.tensor(list(parts.values()), dtype=torch.float64)
    options = {"num_items": None, **options}
    return run_tiles(
        program, weights, hidden, heads, case.labels, given={"teacher": signal}, chunk_size=chunk_size, **options
    )


def gradients(given: Given, loss: Any, names: tuple[str, ...] = checks.TRAINED, **options: Any) -> dict[str, Tensor]:
    case = given.case.requiring(*names)
    total = run(given._replace(case=case), {loss: 1.0}, **options).total
    return dict(zip(names, torch.autograd.grad(total, [getattr(case, name) for name in names]), strict=True))


def expected_sum(given: Given, part: Any) -> float:
    """A part's sum over the kept tokens, by loops over the buckets."""
    case, signal = given
    logits = {view: checks._plain_logits(case, view).tolist() for view in ("student", "noisy", "reference")}
    total = 0.0
    for i in case.kept.tolist():
        ids, values = signal.ids[i].tolist(), signal.log_probs[i].tolist()
        named = {id: value for id, value in zip(ids, values, strict=True) if id >= 0}
        row: dict[str, Any] = {view: values[i] for view, values in logits.items()}
        own = said_of(part, "top_k_reference", None)
        if own is not None:
            total += own({**row, "k": len(ids)}, named, int(case.labels[i]))
            continue
        buckets = {view: coarse(softmax(row[view]), named) for view in row}
        mass = [math.exp(value) for value in named.values()]
        # Less of a rest than a millionth is not believed.
        buckets["teacher"] = [math.log(one) for one in [*mass, max(1 - math.fsum(mass), 1e-6)]]
        if isinstance(part, Divergence):
            target, prediction = (buckets[view] for view in PAIRS[part.role])
            total += reference_of(part)(target, prediction, 1.0)
        else:
            total += reference_of(part)(buckets, int(case.labels[i]))
    return total


def coarse(probabilities: list[float], named: dict[int, float]) -> list[float]:
    """Logarithms of the probabilities of the named tokens, and of all others together."""
    rest = math.fsum(value for id, value in enumerate(probabilities) if id not in named)
    return [math.log(value) for value in [*(probabilities[id] for id in named), rest]]


@each_loss
@pytest.mark.parametrize("k", [1, 4, 10])
def test_token_loss_of_a_top_k_teacher_equals_its_formula_over_buckets(key, k):
    """Tokens without a name, left out or counted one by one, would pull the student towards or away from all of them."""
    loss = LOSSES[key]()
    for options in ({}, {"seed": 1, "scale": 0.6, "softcap": 3.0, "positions": 12}):
        given = make_given(k, **options)
        output = run(given, {loss: 0.5})
        checks.close(output.terms[part_name(loss)].item(), expected_sum(given, loss))
        checks.close(output.total.item(), 0.5 * expected_sum(given, loss) / len(given.case.kept))


@each_metric
@pytest.mark.parametrize("k", [1, 4, 10])
def test_metric_of_a_top_k_teacher_equals_its_formula_over_buckets(name, k):
    """A logged agreement that counts the bucket of all others as a token means nothing."""
    for options in ({}, {"seed": 5, "positions": 40, "softcap": 2.0}):
        given, metric = make_given(k, **options), load_part("metrics", name)()
        found = run(given, {}, {name: metric}).metrics[name]
        checks.close(found.item(), expected_sum(given, metric))


@each_loss
def test_gradient_of_a_top_k_teacher_equals_differences_of_the_formula(key):
    """A right value with a wrong gradient of the rest leaves the student's tail where it is."""
    loss, given, step = LOSSES[key](), make_given(), 1e-5
    names = tuple(name for name in checks.TRAINED if name not in checks.stop_gradient(loss))
    found = gradients(given, loss, names, num_items=1.0)
    generator = torch.Generator().manual_seed(3)
    for name in names:
        for _ in range(3):
            at = tuple(int(torch.randint(0, n, (), generator=generator)) for n in getattr(given.case, name).shape)
            values = []
            for sign in (1, -1):
                moved = getattr(given.case, name).clone()
                moved[at] += sign * step
                values.append(expected_sum(given._replace(case=given.case.replace(**{name: moved})), loss))
            checks.close(found[name][at].item(), (values[0] - values[1]) / (2 * step), 1e-6)


@each_loss
def test_token_loss_of_a_top_k_teacher_passes_gradcheck(key):
    """Every entry of every gradient, over several tiles."""
    loss = LOSSES[key]()
    names = tuple(name for name in checks.TRAINED if name not in checks.stop_gradient(loss))
    sizes = {"positions": 5, "vocab": 5, "teacher_vocab": 5, "width": 3, "teacher_width": 2, "masked": (1,)}
    given = make_given(2, **sizes)
    leaves = given.case.requiring(*names)

    def total(*values: Tensor) -> Tensor:
        case = leaves.replace(**dict(zip(names, values, strict=True)))
        return run(given._replace(case=case), {loss: 1.0}, chunk_size=2).total

    assert torch.autograd.gradcheck(total, tuple(getattr(leaves, name) for name in names), fast_mode=False)


@each_loss
def test_tiles_of_any_size_give_a_top_k_teacher_the_same(key):
    """Named tokens of another tile's rows would teach each token its neighbour's answer."""
    loss, given = LOSSES[key](), make_given(positions=13)
    whole, wanted = run(given, {loss: 1.0}, chunk_size=100).total, gradients(given, loss, chunk_size=100)
    for chunk_size in (1, 3, 7):
        checks.close(run(given, {loss: 1.0}, chunk_size=chunk_size).total, whole, 1e-12)
        found = gradients(given, loss, chunk_size=chunk_size)
        for name, gradient in wanted.items():
            checks.close(found[name], gradient, 1e-12)


@each_loss
def test_split_batch_of_a_top_k_teacher_adds_up(key):
    """Accumulation would train on another objective than one large batch."""
    loss, given = LOSSES[key](), make_given()
    count = float(len(given.case.kept))
    parts = [given.rows(slice(0, 4)), given.rows(slice(4, 9))]
    checks.close(sum(run(one, {loss: 1.0}, num_items=count).total for one in parts), run(given, {loss: 1.0}).total)
    whole, found = gradients(given, loss), [gradients(one, loss, num_items=count) for one in parts]
    checks.close(torch.cat([one["student"] for one in found]), whole["student"], 1e-12)
    checks.close(found[0]["weight"] + found[1]["weight"], whole["weight"], 1e-12)


@each_loss
def test_all_masked_batch_of_a_top_k_teacher_is_zero_and_connected(key):
    """0 / 0 turns the weights into NaN; a missing gradient hangs DDP."""
    loss, given = LOSSES[key](), make_given()
    given.case.labels[:] = -100
    for name, gradient in gradients(given, loss).items():
        assert gradient.count_nonzero() == 0, name
    assert run(given, {loss: 1.0}).total.item() == 0


@each_divergence
def test_divergence_from_a_top_k_teacher_is_zero_at_equality(key):
    """A student that has arrived would be pulled on, away from its teacher's own distribution."""
    loss = LOSSES[key]()
    case = checks.make_case()
    case = case.replace(noisy=case.student)
    whole = case.logits("student").log_softmax(-1)
    for signal in (named_by(whole, 4, {0: 2, 3: 0}), named_by(whole, 10), named_by(whole, 11)):
        given = Given(case, signal)
        # Where all are named, a rest of 1e-6 is held to be possible.
        tolerance = 1e-5 if signal.ids.shape[1] == 11 else 1e-13
        assert abs(run(given, {loss: 1.0}).terms[part_name(loss)].item()) < tolerance
        if said_of(loss, "SMOOTH_AT_EQUALITY", True):
            assert max(g.abs().max() for g in gradients(given, loss).values()) < 10 * tolerance


@each_divergence
def test_divergence_from_a_top_k_teacher_is_less_than_the_whole_and_never_negative(key):
    """Merging tokens can only lose: a bucketed value above the exact one counts some mass twice."""
    loss = LOSSES[key]()
    case = checks.make_case(positions=60, teacher_vocab=11)
    exact = checks.run(case, {loss: 1.0}).terms[part_name(loss)].item()
    whole = case.logits("teacher").log_softmax(-1)
    values = [run(Given(case, named_by(whole, k)), {loss: 1.0}).terms[part_name(loss)].item() for k in (1, 3, 6, 10)]
    assert values[0] > 0 and values == sorted(values) and values[-1] <= exact + 1e-9


@each_divergence
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rest_close_to_nothing_and_rounded_log_probs_stay_finite_and_harmless(key, dtype):
    """A teacher that is certain, rounded to a mass above 1, gave NaN, or rewarded the student for leaving it."""
    loss, case = LOSSES[key](), checks.make_case(positions=40, dtype=torch.float32)
    peaked = (8 * case.logits("student")).log_softmax(-1)
    certain = named_by(peaked, 3)
    rounded = TopKSignal(certain.ids, certain.log_probs.to(dtype).float().clamp(max=0))
    rounded.log_probs[::2, 0] = 0  # and the others beside it
    sure = Given(case.replace(student=8 * case.student, noisy=8 * case.student, bias=8 * case.bias), rounded)
    value = run(sure, {loss: 1.0}).terms[part_name(loss)]
    assert torch.isfinite(value) and value > -1e-4
    assert all(torch.isfinite(gradient).all() for gradient in gradients(sure, loss).values())


@each_divergence
def test_student_without_mass_is_still_pulled_to_a_top_k_teacher(key):
    """Below a floor of its log-probability the pull would be cut off, where it is needed most."""
    loss = LOSSES[key]()
    logits = torch.tensor([[0.0, -200.0, -200.0, -200.0]], dtype=torch.float64, requires_grad=True)
    teacher = TopKView(torch.tensor([[1, 0]]), torch.tensor([[0.6, 0.1]], dtype=torch.float64).log(), 4)
    views = TokenViews(torch.tensor([0]), LogitsView(logits.detach()), noisy=LogitsView(logits), teacher=teacher)
    if "student" in PAIRS[loss.role]:
        views.student = LogitsView(logits)
    (gradient,) = torch.autograd.grad(loss.per_token(views).sum(), logits)
    assert torch.isfinite(gradient).all()
    if part_name(loss) in (
        "forward_kl",
        "consistency_kl",
        "symmetric_kl",
    ):  # of others it vanishes there by their formula
        assert gradient[0, 1] < -0.59 and gradient[0, 2:].sum() < -0.29


@each_loss
def test_masked_positions_of_a_top_k_teacher_do_not_matter(key):
    """Records of positions that no label follows may hold anything."""
    loss, given = LOSSES[key](), make_given()
    masked = given.case.labels == -100
    ids = given.signal.ids.masked_fill(masked[:, None], 999)
    dirty = given._replace(signal=TopKSignal(ids, given.signal.log_probs.masked_fill(masked[:, None], math.nan)))
    checks.close(run(dirty, {loss: 1.0}).total, run(given, {loss: 1.0}).total, 0)


@each_loss
def test_ids_that_the_student_does_not_have_count_among_the_rest(key):
    """A teacher with added tokens ended in an index error, on an accelerator in one that names no line."""
    loss, given = LOSSES[key](), make_given(fewer={})
    ids = given.signal.ids.clone()
    ids[:, 1] = torch.where(torch.arange(len(ids)) % 2 == 0, 11, ids[:, 1])
    ids[4, 0] = 500
    dropped = TopKSignal(torch.where(ids < 11, ids, -1), given.signal.log_probs)
    found = run(given._replace(signal=TopKSignal(ids, given.signal.log_probs)), {loss: 1.0})
    checks.close(found.terms[part_name(loss)].item(), expected_sum(given._replace(signal=dropped), loss))


def outcome(given: Given, keys: list[str], **options: Any) -> tuple[TokenLossOutput, list[Tensor]]:
    """Values and gradients of some losses and all metrics."""
    metrics = [(name, load_part("metrics", name)()) for name in METRICS]
    case, signal = given.rows(given.case.kept)
    case = case.requiring(*checks.TRAINED)
    output = run_tiles(
        TileProgram([(key, LOSSES[key]()) for key in keys], metrics),
        1 + 0.1 * torch.arange(len(keys), dtype=torch.float64),
        {"student": case.student, "noisy": case.noisy},
        {"student": case.head, "noisy": case.head},
        case.labels,
        num_items=None,
        given={"teacher": signal},
        **options,
    )
    leaves = [getattr(case, name) for name in checks.TRAINED]
    return output, list(torch.autograd.grad(output.total, leaves))


def test_filled_up_tiles_of_a_top_k_teacher_equal_plain_ones(monkeypatch):
    """The rows that fill up the last block name token 0 four times over, with a mass of 4: they must not count."""
    monkeypatch.setattr(compilation, "_programs", {})
    original = torch.compile
    # The compiler's own tracing, its shapes and its gradients, without what makes machine code of them.
    monkeypatch.setattr(torch, "compile", lambda f, **kw: original(f, backend="eager", **kw))
    given = make_given(positions=12)
    plain, expected = outcome(given, [*LOSSES], chunk_size=4, compile=False)
    compiled, found = outcome(given, [*LOSSES], chunk_size=4, compile=True)
    assert None not in compilation._programs.values()
    checks.same_outcome(compiled, found, plain, expected, 1e-10)


@pytest.mark.parametrize("key", [key for key in LOSSES if key.startswith(("forward_kl", "reverse_kl", "trusted_nll"))])
def test_compiled_tiles_of_a_top_k_teacher_equal_plain_ones(key, monkeypatch):
    """Where torch's compiler fails, which it does for CPUs at some gradients, the run goes on with the plain program."""
    monkeypatch.setattr(compilation, "_programs", {})
    given = make_given(positions=12, dtype=torch.float32)
    plain, expected = outcome(given, [key], chunk_size=4, compile=False)
    compiled, found = outcome(given, [key], chunk_size=4, compile=True)
    checks.same_outcome(compiled, found, plain, expected, 2e-5)


@each_divergence
def test_another_temperature_is_refused_of_a_top_k_teacher(key):
    """The tail's shape is not known, so its softmax at 2 would be invented."""
    loss = type(LOSSES[key]())(temperature=2.0, role=LOSSES[key]().role)
    with pytest.raises(ValueError, match=r"^temperature=2: of a top-k teacher"):
        run(make_given(), {loss: 1.0})


def test_program_that_reads_no_student_runs_on_a_top_k_teacher():
    """Robust consistency alone reads the perturbed student, and a metric of the teacher nothing else."""
    given = make_given()
    loss = load_part("losses", "consistency_kl")(role="robust_consistency")
    checks.close(run(given, {loss: 1.0}).terms["consistency_kl"].item(), expected_sum(given, loss))
    entropy = load_part("metrics", "teacher_entropy")()
    found = run(given, {}, {"teacher_entropy": entropy}).metrics["teacher_entropy"]
    checks.close(found.item(), expected_sum(given, entropy))
