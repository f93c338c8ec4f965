# SPDX-License-Identifier: Apache-2.0
"""
What every token loss must keep in the code that trains, as plain functions that the contract and fault tests call.

They go through the public entry, `chunked_token_losses`, a few positions to a tile.
"""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hf_ckt.discovery import load_part, names_for_role, part_name, part_names, part_settings
from hf_ckt.kernels import LinearHead, TokenLossOutput
from hf_ckt.kernels import chunked_linear as tiles
from hf_ckt.losses.base import PAIRS, Divergence, TokenLoss
from hf_ckt.views import LogitsView, TokenViews
from tests.contracts.own_test import reference_of, said_of

TRAINED = ("student", "noisy", "weight", "bias")


@dataclasses.dataclass
class Case:
    """Hidden states, heads and labels. The teacher is narrower and its head padded to more ids than the student's."""

    student: Tensor
    noisy: Tensor
    teacher: Tensor
    reference: Tensor
    weight: Tensor
    bias: Tensor | None
    teacher_weight: Tensor
    teacher_bias: Tensor | None
    reference_weight: Tensor
    labels: Tensor
    scale: float = 1.0
    softcap: float | None = None
    teacher_scale: float = 1.0
    teacher_softcap: float | None = None

    def replace(self, **changes: Any) -> "Case":
        return dataclasses.replace(self, **changes)

    def mapped(self, function: Callable[[Tensor], Tensor]) -> "Case":
        """Applies a function to every floating tensor."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return self.replace(
            **{
                name: function(value)
                for name, value in fields.items()
                if isinstance(value, Tensor) and value.is_floating_point()
            }
        )

    def rows(self, index: Any) -> "Case":
        """The same heads on a selection of positions."""
        names = ("student", "noisy", "teacher", "reference", "labels")
        return self.replace(**{name: getattr(self, name)[index] for name in names})

    def requiring(self, *names: str) -> "Case":
        """Fresh leaves, of which the named ones require a gradient."""
        leaves = self.mapped(lambda tensor: tensor.detach().clone())
        for name in names:
            getattr(leaves, name).requires_grad_()
        return leaves

    @property
    def kept(self) -> Tensor:
        return (self.labels != -100).nonzero().squeeze(1)

    @property
    def head(self) -> LinearHead:
        return LinearHead(self.weight, self.bias, self.scale, self.softcap)

    @property
    def teacher_head(self) -> LinearHead:
        return LinearHead(self.teacher_weight, self.teacher_bias, self.teacher_scale, self.teacher_softcap)

    @property
    def reference_head(self) -> LinearHead:
        return LinearHead(self.reference_weight, None, self.scale, self.softcap)

    def logits(self, view: str) -> Tensor:
        """Logits of every position, plainly, for comparison."""
        hidden = {"student": self.student, "noisy": self.noisy, "teacher": self.teacher, "reference": self.reference}
        heads = {"teacher": self.teacher_head, "reference": self.reference_head}
        weight, bias, scale, softcap = heads.get(view, self.head)
        logits = F.linear(hidden[view], weight, bias)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) * scale
        return logits if softcap is None else softcap * torch.tanh(logits / softcap)


def make_case(
    *,
    positions: int = 9,
    vocab: int = 11,
    teacher_vocab: int = 13,
    width: int = 5,
    teacher_width: int = 4,
    masked: tuple[int, ...] = (2, 5),
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    **head: Any,
) -> Case:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    student = draw(positions, width)
    weight = draw(vocab, width)
    labels = torch.randint(0, vocab, (positions,), generator=generator)
    labels[list(masked)] = -100
    case = Case(
        student=student,
        noisy=student + 0.7 * draw(positions, width),
        teacher=draw(positions, teacher_width),
        reference=student + 0.5 * draw(positions, width),
        weight=weight,
        bias=draw(vocab),
        teacher_weight=draw(teacher_vocab, teacher_width),
        teacher_bias=draw(teacher_vocab),
        reference_weight=weight + 0.2 * draw(vocab, width),
        labels=labels,
        **head,
    )
    return case.mapped(lambda tensor: tensor.to(dtype))


def run(case: Case, losses: dict[Any, float], *, chunk_size: int | None = 4, **options: Any) -> TokenLossOutput:
    return tiles.chunked_token_losses(
        losses,
        case.student,
        case.head,
        case.labels,
        noisy_hidden=case.noisy,
        teacher_hidden=case.teacher,
        teacher_head=case.teacher_head,
        reference_hidden=case.reference,
        reference_head=case.reference_head,
        chunk_size=chunk_size,
        **options,
    )


def gradients(case: Case, losses: dict[Any, float], names: tuple[str, ...] = TRAINED, **options: Any) -> dict:
    """Gradients of the total, by name."""
    case = case.requiring(*names)
    found = torch.autograd.grad(run(case, losses, **options).total, [getattr(case, name) for name in names])
    return dict(zip(names, found, strict=True))


def dense_total(case: Case, losses: dict[Any, float], num_items: float | None = None) -> Tensor:
    """The same total by plain autograd on the whole logits, the losses taken from their own `per_token`."""
    kept = case.rows(case.kept)
    views = TokenViews(kept.labels, **{view: LogitsView(kept.logits(view)) for view in ("student", "noisy")})
    views.teacher = LogitsView(kept.logits("teacher").detach())
    views.reference = LogitsView(kept.logits("reference").detach())
    sums = [weight * loss.per_token(views).sum() for loss, weight in losses.items()]
    return torch.stack(sums).sum() / (len(kept.labels) if num_items is None else num_items)


def stop_gradient(loss: TokenLoss) -> frozenset[str]:
    """
    Inputs whose finite differences see a constant move that autograd holds: the clean target, the DFT weight.

    The loss's own test file says so, and not the loss: a flag flipped in the code must not flip its test with it.
    """
    return frozenset(said_of(loss, "held_inputs", lambda role: ())(getattr(loss, "role", "")))


def token_losses() -> dict[str, Callable[[], TokenLoss]]:
    """Every discovered token loss in each role that it serves, at temperature 1 and, where it has one, 2.5."""
    found: dict[str, Callable[[], TokenLoss]] = {}
    for name in part_names("losses"):
        cls = load_part("losses", name)
        if not issubclass(cls, TokenLoss):
            continue
        roles = [*cls.roles, *(["robust_consistency"] if "consistency" in cls.roles else [])]
        variants: list[dict[str, Any]] = [{"role": role} for role in roles] if issubclass(cls, Divergence) else [{}]
        if "temperature" in part_settings(cls):
            variants = [v | {"temperature": t} for v in variants for t in (1.0, 2.5)]
        for variant in variants:
            found["-".join([name, *map(str, variant.values())])] = lambda cls=cls, variant=variant: cls(**variant)
    return found


def expected_sum(case: Case, part: Any) -> float:
    """A token loss's or metric's sum over the kept tokens by its reference, a float at a time."""
    reference = reference_of(part)
    logits = {view: _plain_logits(case, view) for view in ("student", "noisy", "teacher", "reference")}
    total = 0.0
    for i in case.kept.tolist():
        row = {view: values[i].tolist() for view, values in logits.items()}
        if isinstance(part, Divergence):
            target, prediction = (row[view] for view in PAIRS[part.role])
            shared = min(len(target), len(prediction))
            total += reference(target[:shared], prediction[:shared], part.temperature)
        else:
            total += reference(row, int(case.labels[i]))
    return total


def _plain_logits(case: Case, view: str) -> np.ndarray:
    hidden, head = {
        "student": (case.student, case.head),
        "noisy": (case.noisy, case.head),
        "teacher": (case.teacher, case.teacher_head),
        "reference": (case.reference, case.reference_head),
    }[view]
    weight, bias, scale, softcap = head
    logits = np.asarray(hidden.detach().double()) @ np.asarray(weight.detach().double()).T
    if bias is not None:
        logits = logits + np.asarray(bias.detach().double())
    logits = logits * scale
    return logits if softcap is None else softcap * np.tanh(logits / softcap)


def close(found: Any, expected: Any, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(torch.as_tensor(found), torch.as_tensor(expected), rtol=tolerance, atol=tolerance)


# --- the checks -----------------------------------------------------------------------------------------------------


def check_value(loss: TokenLoss) -> None:
    for case in (make_case(), make_case(seed=1, scale=0.6, softcap=3.0, teacher_scale=1.4, teacher_softcap=5.0)):
        expected = expected_sum(case, loss)
        output = run(case, {loss: 0.5})
        close(output.terms[part_name(loss)].item(), expected)
        close(output.total.item(), 0.5 * expected / len(case.kept))
        close(run(case, {loss: 0.5}, num_items=20).total.item(), 0.5 * expected / 20)


def check_gradient_against_differences(loss: TokenLoss) -> None:
    """The runner's gradient against finite differences of the independent reference, so temperature^2 shows in both."""
    case, step = make_case(), 1e-5
    names = tuple(name for name in TRAINED if name not in stop_gradient(loss))
    found = gradients(case, {loss: 1.0}, names, num_items=1.0)
    generator = torch.Generator().manual_seed(3)
    for name in names:
        for _ in range(3):
            at = tuple(int(torch.randint(0, n, (), generator=generator)) for n in getattr(case, name).shape)
            values = []
            for sign in (1, -1):
                moved = getattr(case, name).clone()
                moved[at] += sign * step
                values.append(expected_sum(case.replace(**{name: moved}), loss))
            close(found[name][at].item(), (values[0] - values[1]) / (2 * step), 1e-6)


def check_gradients_equal_dense(loss: TokenLoss) -> None:
    case = make_case(positions=11).requiring(*TRAINED)
    leaves = [getattr(case, name) for name in TRAINED]
    expected = torch.autograd.grad(dense_total(case, {loss: 1.3}), leaves, allow_unused=True)
    for chunk_size in (1, 3, 100):
        found = gradients(case, {loss: 1.3}, chunk_size=chunk_size)
        for name, truth in zip(TRAINED, expected, strict=True):
            close(found[name], torch.zeros_like(found[name]) if truth is None else truth, 1e-12)


def check_zero_at_equality(loss: Divergence) -> None:
    case = make_case()
    same = case.replace(
        noisy=case.student,
        teacher=case.student,
        reference=case.student,
        teacher_weight=case.weight,
        teacher_bias=case.bias,
        reference_weight=case.weight,
        bias=None,
    ).replace(teacher_bias=None)
    # Rounded differently on the way, the two views are equal to the last bits only.
    close(run(same, {loss: 1.0}).terms[part_name(loss)].item(), 0.0, 1e-13)
    for name in ("student", "noisy"):
        gradient = gradients(same, {loss: 1.0}, (name,))[name]
        smooth = said_of(loss, "SMOOTH_AT_EQUALITY", True)
        assert not smooth or gradient.abs().max() < 1e-12, f"gradient of {name}"


def check_positive_elsewhere(loss: Divergence) -> None:
    torch.manual_seed(0)
    for spread in (0.01, 1.0, 30.0):
        views = {view: LogitsView(spread * torch.randn(300, 7, dtype=torch.float64)) for view in PAIRS[loss.role]}
        views.setdefault("student", LogitsView(torch.zeros(300, 7, dtype=torch.float64)))
        value = loss.per_token(TokenViews(torch.zeros(300, dtype=torch.long), **views))
        assert value.shape == (300,)
        assert value.min() > 0, f"{value.min()} at spread {spread}"


def check_masked_positions_do_not_matter(loss: TokenLoss) -> None:
    case = make_case()
    masked = case.labels == -100
    plain, expected = run(case, {loss: 1.0}), gradients(case, {loss: 1.0})
    for filling in (1e300, float("nan")):
        dirty = case.replace(
            **{
                name: getattr(case, name).masked_fill(masked[:, None], filling)
                for name in ("student", "noisy", "teacher", "reference")
            }
        )
        output, found = run(dirty, {loss: 1.0}), gradients(dirty, {loss: 1.0})
        assert output.num_kept == int((~masked).sum())
        close(output.total, plain.total, 0)
        for name in TRAINED:
            close(found[name], expected[name], 0)
        assert found["student"][masked].abs().max() == 0


def check_order_does_not_matter(loss: TokenLoss) -> None:
    case = make_case()
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    shuffled = case.rows(order)
    close(run(shuffled, {loss: 1.0}).total, run(case, {loss: 1.0}).total, 1e-13)
    found, expected = gradients(shuffled, {loss: 1.0}), gradients(case, {loss: 1.0})
    for name in TRAINED:
        close(found[name], expected[name][order] if name in ("student", "noisy") else expected[name], 1e-12)


def check_split_batch_adds_up(loss: TokenLoss) -> None:
    case = make_case()
    num_items = float(len(case.kept))
    whole, expected = run(case, {loss: 1.0}), gradients(case, {loss: 1.0})
    parts = [case.rows(slice(0, 4)), case.rows(slice(4, 9))]
    key = part_name(loss)
    close(sum(run(part, {loss: 1.0}).terms[key] for part in parts), whole.terms[key], 1e-13)
    close(sum(run(part, {loss: 1.0}, num_items=num_items).total for part in parts), whole.total, 1e-13)
    found = [gradients(part, {loss: 1.0}, num_items=num_items) for part in parts]
    for name in ("student", "noisy"):
        close(torch.cat([part[name] for part in found]), expected[name], 1e-13)
    for name in ("weight", "bias"):
        close(found[0][name] + found[1][name], expected[name], 1e-12)


def check_all_masked_is_zero_and_connected(loss: TokenLoss) -> None:
    case = make_case().requiring(*TRAINED)
    case.labels[:] = -100
    for num_items in (None, 12.0, torch.tensor(0), 0):
        output = run(case, {loss: 1.0}, num_items=num_items)
        assert output.total.item() == 0 and output.num_kept == 0, f"{output.total} with num_items={num_items}"
        assert output.total.requires_grad
        found = torch.autograd.grad(output.total, [getattr(case, name) for name in TRAINED])
        assert all(gradient.count_nonzero() == 0 for gradient in found), f"num_items={num_items}"


def check_gradcheck(loss: TokenLoss) -> None:
    names = tuple(name for name in TRAINED if name not in stop_gradient(loss))
    case = make_case(positions=4, vocab=4, teacher_vocab=5, width=3, teacher_width=2, masked=(1,)).requiring(*names)

    def total(*leaves: Tensor) -> Tensor:
        return run(case.replace(**dict(zip(names, leaves, strict=True))), {loss: 1.0}, chunk_size=2).total

    if names:
        assert torch.autograd.gradcheck(total, tuple(getattr(case, name) for name in names), fast_mode=False)


def check_targets_get_no_gradient(loss: TokenLoss) -> None:
    names = ("teacher", "teacher_weight", "teacher_bias", "reference", "reference_weight")
    case = make_case().requiring(*TRAINED, *names)
    run(case, {loss: 1.0}).total.backward()
    for name in names:
        assert getattr(case, name).grad is None, name


def check_clean_view_is_detached(loss: TokenLoss) -> None:
    found = gradients(make_case(), {loss: 1.0}, ("student", "noisy"))
    assert found["student"].count_nonzero() == 0
    assert found["noisy"].abs().max() > 1e-3


def check_outer_gradient(loss: TokenLoss) -> None:
    case = make_case()
    expected = gradients(case, {loss: 1.0})
    case = case.requiring(*TRAINED)
    total = run(case, {loss: 1.0}).total
    found = torch.autograd.grad(-2.5 * total, [getattr(case, name) for name in TRAINED])
    for name, gradient in zip(TRAINED, found, strict=True):
        close(gradient, -2.5 * expected[name], 1e-12)


def check_copies_compute_the_same(loss: Any, roundtrip: Callable[[Any], Any] = copy.deepcopy) -> None:
    case = make_case()
    again = roundtrip(loss)
    assert repr(again) == repr(loss)
    close(run(case, {again: 1.0}).total, run(case, {loss: 1.0}).total, 0)


CONSISTENCY = tuple(name for name in names_for_role("consistency"))


def same_outcome(one: TokenLossOutput, found: list[Tensor], other: TokenLossOutput, expected: list[Tensor], tolerance):
    """Asserts that two runs have the same values and gradients, within a tolerance."""
    close(one.total, other.total, tolerance)
    for name, value in {**other.terms, **other.metrics}.items():
        close({**one.terms, **one.metrics}[name], value, tolerance)
    for gradient, truth in zip(found, expected, strict=True):
        assert torch.isfinite(gradient).all()
        close(gradient, truth, tolerance)
