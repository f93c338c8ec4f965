# SPDX-License-Identifier: Apache-2.0
"""
What every token loss and metric keeps when the teacher is a mixture of two.

Expected values are the part's own formula, a float at a time, of the teacher's distribution w p_1 + (1 - w) p_2, each of the
two normalised over the ids that all have.
"""

import math
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from hf_ckt.discovery import load_part, part_name, part_names
from hf_ckt.kernels import LinearHead, compilation
from hf_ckt.kernels.chunked_linear import TokenLossOutput, run_tiles
from hf_ckt.kernels.mixed_view import MixedView
from hf_ckt.kernels.signals import MixedSignal, Mixture, TeacherSignal
from hf_ckt.kernels.tile_program import TileProgram
from hf_ckt.losses.base import PAIRS, Divergence
from hf_ckt.views import LogitsView, TokenViews
from tests import references
from tests.contracts import token_checks as checks
from tests.contracts.own_test import reference_of
from tests.losses.loops import softmax

LOSSES = {key: make for key, make in checks.token_losses().items() if "teacher" in make().needs}
METRICS = [name for name in part_names("metrics") if "teacher" in load_part("metrics", name)().needs]

each_loss = pytest.mark.parametrize("key", LOSSES)
each_metric = pytest.mark.parametrize("name", METRICS)


class Given(NamedTuple):
    """A case with the second teacher's states and head, and the log-odds of the first."""

    case: checks.Case
    second: TeacherSignal
    log_odds: Tensor

    def rows(self, index: Any) -> "Given":
        index = torch.arange(len(self.case.labels))[index]
        return Given(self.case.rows(index), self.second.select(index), self.log_odds[index])

    @property
    def signal(self) -> MixedSignal:
        return MixedSignal(self.case.teacher, self.case.teacher_head, self.second, Mixture(self.log_odds))


def make_given(
    second_vocab: int = 12, second_width: int = 3, second_head: dict[str, Any] | None = None, **options: Any
) -> Given:
    case = checks.make_case(**options)
    generator = torch.Generator().manual_seed(options.get("seed", 0) + 50)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(case.teacher.dtype)

    head = LinearHead(draw(second_vocab, second_width), draw(second_vocab), **(second_head or {}))
    count = len(case.labels)
    # The formulas know of no label that a teacher has not.
    case.labels.clamp_(max=min(second_vocab, len(case.teacher_weight)) - 1)
    return Given(case, TeacherSignal(draw(count, second_width), head), 3 * draw(count))


KINDS: dict[str, dict[str, Any]] = {
    "wider teachers": {},
    "a narrow first": {"teacher_vocab": 9},
    "a narrow second": {"second_vocab": 8},
    "scaled and capped": {
        "seed": 1,
        "scale": 0.6,
        "softcap": 3.0,
        "teacher_scale": 1.4,
        "teacher_softcap": 5.0,
        "second_head": {"logit_scale": 0.7, "softcap": 2.0},
    },
}
each_kind = pytest.mark.parametrize("kind", KINDS)


def run(given: Given, parts: dict[Any, float], metrics: Any = (), *, chunk_size: int | None = 4, **options: Any):
    """As the trainer runs them: the kept positions, and of the teachers what each says there."""
    case, signal = given.rows(given.case.kept).case, given.signal.select(given.case.kept)
    program = TileProgram([(part_name(one), one) for one in parts], [(name, metrics[name]) for name in metrics])
    hidden = {name: getattr(case, name) for name in ("student", "noisy", "reference")}
    hidden |= {"teacher": signal.hidden, "second_teacher": signal.second.hidden}
    heads = {"student": case.head, "noisy": case.head, "reference": case.reference_head}
    heads |= {"teacher": signal.head, "second_teacher": signal.second.head}
    weights = torch.tensor(list(parts.values()), dtype=torch.float64)
    options = {"num_items": None, **options}
    return run_tiles(
        program,
        weights,
        hidden,
        heads,
        case.labels,
        given={"teacher": signal.mixture},
        chunk_size=chunk_size,
        **options,
    )


def gradients(given: Given, loss: Any, names: tuple[str, ...] = checks.TRAINED, **options: Any) -> dict[str, Tensor]:
    case = given.case.requiring(*names)
    total = run(given._replace(case=case), {loss: 1.0}, **options).total
    return dict(zip(names, torch.autograd.grad(total, [getattr(case, name) for name in names]), strict=True))


def second_logits(given: Given) -> Tensor:
    hidden, (weight, bias, scale, softcap) = given.second
    logits = (hidden @ weight.t() + bias).double() * scale
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


def mixed_row(first: list[float], second: list[float], odds: float, ids: int) -> list[float]:
    """Log-probabilities of the mixture over the first ids."""
    weight = 1 / (1 + math.exp(-odds))
    both = zip(softmax(first[:ids]), softmax(second[:ids]), strict=True)
    return [math.log(weight * one + (1 - weight) * two) for one, two in both]


def expected_sum(given: Given, part: Any) -> float:
    """A part's sum over the kept tokens, by loops over the ids."""
    case = given.case
    logits = {view: checks._plain_logits(case, view).tolist() for view in ("student", "noisy", "teacher", "reference")}
    second = second_logits(given).tolist()
    total = 0.0
    for i in case.kept.tolist():
        row: dict[str, Any] = {view: values[i] for view, values in logits.items()}
        ids = min(len(row["teacher"]), len(second[i]))
        if part.needs != {"teacher"}:
            ids = min(ids, len(row["student"]))
        row["teacher"] = mixed_row(row["teacher"], second[i], float(given.log_odds[i]), ids)
        if isinstance(part, Divergence):
            target, prediction = (row[view] for view in PAIRS[part.role])
            shared = min(len(target), len(prediction))
            total += reference_of(part)(target[:shared], prediction[:shared], part.temperature)
        else:
            total += reference_of(part)(row, int(case.labels[i]))
    return total


def dense_total(given: Given, losses: dict[Any, float]) -> Tensor:
    """The same total by plain autograd: whole logits, the mixture of probabilities as it is written."""
    case = given.rows(given.case.kept).case
    signal = given.signal.select(given.case.kept)
    views = TokenViews(case.labels, **{name: LogitsView(case.logits(name)) for name in ("student", "noisy")})
    ids = min(len(case.weight), len(case.teacher_weight), len(signal.second.head.weight))
    weight = signal.mixture.log_odds.sigmoid()[:, None]
    second = signal.second.head.logits(signal.second.hidden)
    mixture = weight * case.logits("teacher")[:, :ids].softmax(-1) + (1 - weight) * second[:, :ids].softmax(-1)
    views.teacher = LogitsView(mixture.log().detach())
    views.reference = LogitsView(case.logits("reference").detach())
    return torch.stack([w * loss.per_token(views).sum() for loss, w in losses.items()]).sum() / len(case.labels)


@each_loss
@each_kind
def test_token_loss_of_a_mixture_equals_its_formula(kind, key):
    """Mixed after another softmax, or by the other's weight, it falls all the same and teaches something else."""
    loss, given = LOSSES[key](), make_given(**KINDS[kind])
    output = run(given, {loss: 0.5})
    checks.close(output.terms[part_name(loss)].item(), expected_sum(given, loss))
    checks.close(output.total.item(), 0.5 * expected_sum(given, loss) / len(given.case.kept))


@each_metric
@each_kind
def test_metric_of_a_mixture_equals_its_formula(kind, name):
    """A logged agreement with one of the two would be taken for one with both."""
    given, metric = make_given(**{**KINDS[kind], "positions": 40}), load_part("metrics", name)()
    found = run(given, {}, {name: metric}).metrics[name]
    checks.close(found.item(), expected_sum(given, metric))


@each_loss
@each_kind
def test_gradient_of_a_mixture_equals_dense_autograd(kind, key):
    """A right value with the gradient of another view leaves the student where it is, in tiles of whatever size."""
    loss = LOSSES[key]()
    given = make_given(**{**KINDS[kind], "positions": 13})
    leaves = given.case.requiring(*checks.TRAINED)
    total = dense_total(given._replace(case=leaves), {loss: 1.0})
    truth = torch.autograd.grad(
        total, [getattr(leaves, name) for name in checks.TRAINED], allow_unused=True, materialize_grads=True
    )
    for chunk_size in (1, 3, 100):
        found = gradients(given, loss, chunk_size=chunk_size)
        for name, expected in zip(checks.TRAINED, truth, strict=True):
            checks.close(found[name], expected, 1e-11)


def errors(given: Given, losses: dict[Any, float], dtype: torch.dtype, autocast: bool) -> tuple[Tensor, Tensor]:
    """Errors of plain PyTorch and of tiles against float64, of the value and of each gradient."""
    exact = given.case.requiring(*checks.TRAINED)
    value = dense_total(given._replace(case=exact), losses)
    truth = [value, *torch.autograd.grad(value, [getattr(exact, name) for name in checks.TRAINED])]
    case = given.case.mapped(lambda tensor: tensor.detach().to(dtype)).requiring(*checks.TRAINED)
    hidden, head = given.second
    head = head._replace(weight=head.weight.to(dtype), bias=None if head.bias is None else head.bias.to(dtype))
    rough = Given(case, TeacherSignal(hidden.to(dtype), head), given.log_odds.float())
    found = []
    for way in (dense_total, lambda one, losses: run(one, losses).total):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            total = way(rough, losses)
        outcome = [total, *torch.autograd.grad(total, [getattr(case, name) for name in checks.TRAINED])]
        found.append(torch.stack([(a.double() - b).norm() for a, b in zip(outcome, truth, strict=True)]).detach())
    return found[0], found[1]


@pytest.mark.parametrize(
    ("dtype", "autocast"), [(torch.float32, False), (torch.bfloat16, False), (torch.float32, True)], ids=str
)
def test_error_of_a_mixture_is_within_twice_that_of_plain_pytorch(dtype, autocast):
    """In log space nothing may be lost that the mixture of probabilities keeps."""
    losses = {LOSSES[key](): 1.0 for key in LOSSES if key.startswith(("forward_kl", "reverse_kl", "jensen"))}
    sums = [torch.zeros(5, dtype=torch.float64) for _ in range(2)]
    for seed in range(6):
        given = make_given(
            second_vocab=50, second_width=8, positions=40, width=24, teacher_width=16, vocab=50, seed=seed
        )
        for one, found in zip(sums, errors(given, losses, dtype, autocast), strict=True):
            one += found
    assert (sums[1] <= 2 * sums[0] + 1e-12).all(), sums


@each_loss
def test_weight_of_one_or_of_nothing_is_one_teacher_alone(key):
    """0 times the log of nothing is NaN, and a choice between the two must be a choice."""
    loss, given = LOSSES[key](), make_given(second_vocab=13)
    alone = checks.gradients(given.case, {loss: 1.0})
    swapped = Given(
        given.case.replace(
            teacher=given.second.hidden, teacher_weight=given.second.head.weight, teacher_bias=given.second.head.bias
        ),
        given.signal.second,
        given.log_odds,
    )
    other = checks.gradients(swapped.case, {loss: 1.0})
    for odds in (math.inf, 200.0):
        for sign, expected in ((1, alone), (-1, other)):
            found = gradients(given._replace(log_odds=torch.full_like(given.log_odds, sign * odds)), loss)
            for name in checks.TRAINED:
                checks.close(found[name], expected[name], 1e-12)


def test_teachers_that_exclude_each_others_token_are_mixed_without_loss():
    """In float32 the logarithm of a sum of exponentials has no digits left, at either end."""
    first, second = torch.tensor([[0.0, -300.0, -40.0]]), torch.tensor([[-300.0, 0.0, -40.0]])
    odds = torch.tensor([-30.0])
    view = MixedView(LogitsView(first), LogitsView(second), odds)
    expected = [-30 - math.log1p(math.exp(-30)), -math.log1p(math.exp(-30)), -40.0]
    checks.close(view.log_probs()[0].tolist(), expected, 1e-6)
    at_two = [value / 2 for value in expected]
    total = math.log(sum(math.exp(value) for value in at_two))
    checks.close(view.log_probs(2.0)[0].tolist(), [value - total for value in at_two], 1e-6)


def test_temperature_is_that_of_the_mixture_and_not_of_the_two():
    """Documented as a power of the mixture; two softened teachers would be another distribution."""
    view = MixedView(*(LogitsView(torch.randn(3, 5, dtype=torch.float64)) for _ in range(2)), torch.zeros(3).double())
    power = view.log_probs().exp() ** (1 / 2.5)
    checks.close(view.log_probs(2.5).exp(), power / power.sum(-1, keepdim=True), 1e-12)
    both = sum(LogitsView(one.logits).log_probs(2.5).exp() / 2 for one in view._both)
    assert (both - view.log_probs(2.5).exp()).abs().max() > 1e-3


@each_loss
def test_all_masked_batch_of_a_mixture_is_zero_and_connected(key):
    """0 / 0 turns the weights into NaN; a missing gradient hangs DDP."""
    loss, given = LOSSES[key](), make_given()
    given.case.labels[:] = -100
    for name, gradient in gradients(given, loss).items():
        assert gradient.count_nonzero() == 0, name
    assert run(given, {loss: 1.0}).total.item() == 0


@each_loss
def test_split_batch_of_a_mixture_adds_up(key):
    """Weights of another part's rows would teach each token what its neighbour deserves."""
    loss, given = LOSSES[key](), make_given()
    count = float(len(given.case.kept))
    parts = [given.rows(slice(0, 4)), given.rows(slice(4, 9))]
    checks.close(sum(run(one, {loss: 1.0}, num_items=count).total for one in parts), run(given, {loss: 1.0}).total)
    whole, found = gradients(given, loss), [gradients(one, loss, num_items=count) for one in parts]
    checks.close(torch.cat([one["student"] for one in found]), whole["student"], 1e-12)
    checks.close(found[0]["weight"] + found[1]["weight"], whole["weight"], 1e-12)


def outcome(given: Given, keys: list[str], **options: Any) -> tuple[TokenLossOutput, list[Tensor]]:
    """Values and gradients of some losses, and all metrics."""
    metrics = {name: load_part("metrics", name)() for name in METRICS}
    case = given.case.requiring(*checks.TRAINED)
    losses = {LOSSES[key](): 1 + 0.1 * number for number, key in enumerate(keys)}
    output = run(given._replace(case=case), losses, metrics, **options)
    return output, list(torch.autograd.grad(output.total, [getattr(case, name) for name in checks.TRAINED]))


@pytest.mark.parametrize("key", [key for key in LOSSES if key.startswith(("forward_kl", "reverse_kl", "trusted_nll"))])
def test_compiled_tiles_of_a_mixture_equal_plain_ones(key, monkeypatch):
    """The last block is filled up with rows of no teacher, and a compiler may write the mixture in another way."""
    monkeypatch.setattr(compilation, "_programs", {})
    given = make_given(positions=12, dtype=torch.float32)
    given.log_odds[:3] = torch.tensor([math.inf, -math.inf, 90.0])
    plain, expected = outcome(given, [key], chunk_size=4, compile=False)
    compiled, found = outcome(given, [key], chunk_size=4, compile=True)
    assert None not in compilation._programs.values()
    checks.same_outcome(compiled, found, plain, expected, 2e-5)


@pytest.mark.parametrize(("shared", "rows"), [("nothing", 4), ("head", 4), ("head and states", 3)])
def test_teachers_are_projected_once_each(shared, rows):
    """Two adapters on one backbone have one head, which is read once; a mixture with the reference reads its projection."""
    positions, loss = 16, {LOSSES["forward_kl-distillation-1.0"](): 1.0}
    given = make_given(
        positions=positions, vocab=97, teacher_vocab=97, second_vocab=97, masked=(), dtype=torch.float32
    )
    case, second = given.case, given.second
    losses: dict[Any, float] = {**loss, load_part("losses", "reference_kl")(): 1.0}
    if shared != "nothing":
        second = TeacherSignal(case.reference, case.reference_head)
    if shared == "head":
        second = second._replace(hidden=second.hidden.clone())
    program = TileProgram([(part_name(one), one) for one in losses])
    hidden = {
        "student": case.student,
        "teacher": case.teacher,
        "reference": case.reference,
        "second_teacher": second.hidden,
    }
    heads = {
        "student": case.head,
        "teacher": case.teacher_head,
        "reference": case.reference_head,
        "second_teacher": second.head,
    }
    with torch.no_grad(), references.Recorder(97) as recorder:
        run_tiles(
            program,
            torch.ones(2),
            hidden,
            heads,
            case.labels,
            num_items=None,
            given={"teacher": Mixture(given.log_odds)},
            chunk_size=positions,
        )
    assert recorder.rows == rows * positions
    assert recorder.products == {"nothing": 4, "head": 3, "head and states": 3}[shared]
