# SPDX-License-Identifier: Apache-2.0
"""Every loss and every gradient on a device and in its dtypes, against float64 on the CPU."""

import math

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from torch import nn

from hf_ckt.discovery import load_part, names_for_role
from hf_ckt.kernels import HeadGram, LinearHead, compilation
from hf_ckt.losses.adapter_l2 import AdapterL2Loss
from hf_ckt.views import Similarities
from tests.contracts.token_checks import TRAINED, Case, dense_total, make_case, run, token_losses
from tests.gpu.devices import each_device

LOSSES = token_losses()
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
each_dtype = pytest.mark.parametrize("dtype", list(DTYPES))
SEEDS = 6


def rough_case(exact: Case, device: str, dtype: torch.dtype) -> Case:
    return exact.mapped(lambda tensor: tensor.detach().to(device, dtype)).replace(labels=exact.labels.to(device))


def exact_case(rough: Case) -> Case:
    """The same numbers in float64 on the CPU: what is compared are the computations and not the rounded inputs."""
    return rough.mapped(lambda tensor: tensor.detach().cpu().double()).replace(labels=rough.labels.cpu())


def value_and_gradients(total, case: Case) -> list[torch.Tensor]:
    case = case.requiring(*TRAINED)
    value = total(case)
    leaves = [getattr(case, name) for name in TRAINED]
    found = torch.autograd.grad(value, leaves, allow_unused=True)
    filled = (torch.zeros_like(leaf) if one is None else one for one, leaf in zip(found, leaves, strict=True))
    return [one.detach().cpu().double() for one in (value, *filled)]


def check_budget(losses: dict, device: str, dtype: torch.dtype, *, compile: bool) -> None:
    """
    Loss and each gradient err at most twice as much as plain PyTorch in the same dtype on the same device.

    Root mean square over several draws: one draw's error is a matter of luck for both. An error of half a unit in the
    last place is nobody's fault, so that much is added.
    """
    sums = {"tiled": torch.zeros(5), "plain": torch.zeros(5)}
    for seed in range(SEEDS):
        case = rough_case(
            make_case(positions=70, width=24, teacher_width=16, vocab=50, teacher_vocab=53, seed=seed), device, dtype
        )
        truth = value_and_gradients(lambda one: dense_total(one, losses), exact_case(case))
        for name, total in (
            ("tiled", lambda one: run(one, losses, chunk_size=16, compile=compile).total),
            ("plain", lambda one: dense_total(one, losses)),
        ):
            found = value_and_gradients(total, case)
            sums[name] += torch.tensor(
                [
                    float((one - true).square().sum() / true.square().sum().clamp(min=1e-300))
                    for one, true in zip(found, truth, strict=True)
                ]
            )
    tiled, plain = ((total / SEEDS).sqrt() for total in (sums["tiled"], sums["plain"]))
    assert (tiled <= 2 * plain + torch.finfo(dtype).eps / 2).all(), (["value", *TRAINED], tiled, plain)


@each_device
@each_dtype
@pytest.mark.parametrize("key", LOSSES)
def test_each_loss_on_tiles_errs_at_most_twice_as_much_as_plain_pytorch(key, dtype, device):
    """A product that a device computes in a narrower dtype trains on gradients that nobody compared with anything."""
    check_budget({LOSSES[key](): 1.0}, device, DTYPES[dtype], compile=False)


ALL = [key for key in LOSSES if not key.endswith("-2.5")]
# Every graph takes a compiler seconds: all losses in the dtype of most runs, one of each kind in float16. In float32
# tests/kernels/test_tile_edges.py compiles such a program on a GPU.
ONE_OF_A_KIND = [
    "nll",
    "forward_kl-distillation-2.5",
    "consistency_kl-consistency-1.0",
    "total_variation-distillation-1.0",
]


@pytest.mark.parametrize(
    ("device", "dtype", "keys"),
    [
        pytest.param("cpu", "bfloat16", ALL, marks=pytest.mark.slow, id="cpu-bfloat16-all"),
        pytest.param("cuda", "bfloat16", ALL, marks=pytest.mark.gpu, id="cuda-bfloat16-all"),
        pytest.param("cuda", "float16", ONE_OF_A_KIND, marks=pytest.mark.gpu, id="cuda-float16"),
    ],
)
def test_losses_compiled_err_at_most_twice_as_much_as_plain_pytorch(device, dtype, keys, monkeypatch, caplog):
    """The code that a compiler makes is another on each device, and only there is it run."""
    monkeypatch.setattr(compilation, "_programs", {})
    monkeypatch.setattr(compilation, "_reasons", set())
    torch._dynamo.reset()
    check_budget({LOSSES[key](): 1.0 for key in keys}, device, DTYPES[dtype], compile=True)
    failed = [record.getMessage() for record in caplog.records if "torch.compile of the objective" in record.message]
    torch._dynamo.reset()
    if device == "cpu" and failed:
        pytest.skip(f"no compiler here, so the plain tiles ran: {failed[0]}")
    assert not failed and len(compilation._programs) == 1 and None not in compilation._programs.values(), failed


@each_device
@each_dtype
@pytest.mark.parametrize("level", ["plain", "autocast"])
def test_tiles_on_a_device_leave_the_dtype_of_states_to_their_gradients(level, dtype, device):
    """A gradient in another dtype than its tensor is cast again at every layer below, or refused there."""
    if level == "autocast" and dtype == "float32":
        pytest.skip("autocast to float32 is none")
    case = rough_case(make_case(positions=20), device, torch.float32 if level == "autocast" else DTYPES[dtype])
    case = case.requiring(*TRAINED)
    with torch.autocast(device, dtype=DTYPES[dtype], enabled=level == "autocast"):
        output = run(case, {"nll": 1.0, "consistency_kl": 1.0}, metrics=["entropy"])
    assert output.total.dtype == torch.float32 and output.total.device.type == device
    assert {value.dtype for value in (*output.terms.values(), *output.metrics.values())} == {torch.float32}
    output.total.backward()
    for name in TRAINED:
        leaf = getattr(case, name)
        assert leaf.grad.dtype == leaf.dtype and leaf.grad.device == leaf.device and leaf.grad.isfinite().all()


def contrast_case(device: str, dtype: torch.dtype, seed: int = 0) -> dict[str, torch.Tensor]:
    """Heads that are far from centred, and more rows of them than are taken at a time (8192)."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    case = {
        "student_weight": draw(9_000, 24) + 0.5,
        "teacher_weight": draw(9_000, 16) - 0.3,
        "student": draw(30, 24) + 1,
        "teacher": draw(30, 16) - 1,
    }
    return {name: value.to(device, dtype) for name, value in case.items()}


def contrast_by_gram(case: dict[str, torch.Tensor], loss) -> list[torch.Tensor]:
    """Loss and gradient of the student's states through the Gram matrices."""
    student = case["student"].float().requires_grad_()
    gram = HeadGram.from_heads(LinearHead(case["student_weight"]), LinearHead(case["teacher_weight"]))
    teacher = case["teacher"].float()
    means = {"student_mean": student.mean(0), "teacher_mean": teacher.mean(0)}
    crossed, same = gram.cosines(student, teacher, teacher, **means)
    positive = torch.arange(30, device=student.device)
    value = loss.per_anchor(Similarities(crossed, same, positive)).mean()
    return [value.detach(), *torch.autograd.grad(value, student)]


def contrast_by_logits(case: dict[str, torch.Tensor], loss, dtype: torch.dtype) -> list[torch.Tensor]:
    """The same from the logits written out."""
    student = case["student"].to(dtype).requires_grad_()

    def directions(states: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        logits = (states - states.mean(0)) @ weight.to(dtype).t()
        return F.normalize(logits - logits.mean(-1, keepdim=True), dim=-1)

    mine = directions(student, case["student_weight"])
    theirs = directions(case["teacher"].to(dtype), case["teacher_weight"])
    positive = torch.arange(30, device=student.device)
    value = loss.per_anchor(Similarities(mine @ theirs.t(), theirs @ theirs.t(), positive)).mean()
    return [value.detach(), *torch.autograd.grad(value, student)]


@each_device
@each_dtype
@pytest.mark.parametrize("name", names_for_role("contrastive"))
def test_contrast_through_gram_matrices_equals_full_logits_in_float64(name, dtype, device):
    """Matrix units that round to TF32 or lower lose the centring, a difference of large numbers, and the loss still falls."""
    loss = load_part("losses", name)()
    with torch.autocast(device, dtype=torch.bfloat16), torch.autocast(device, enabled=False):
        # As in the objective: within the autocast of a step, switched off around the similarities.
        case = contrast_case(device, DTYPES[dtype])
        found = contrast_by_gram(case, loss)
    exact = {key: value.cpu() for key, value in case.items()}
    for one, true in zip(found, contrast_by_logits(exact, loss, torch.float64), strict=True):
        assert one.dtype == torch.float32
        assert float((one.cpu().double() - true).norm() / true.norm()) < 2e-5


@each_device
@each_dtype
def test_adapter_penalty_equals_the_update_written_out_in_float64(dtype, device):
    """In half precision the square of a small update is 0, and the penalty holds nothing."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(24, 40), nn.ReLU(), nn.Linear(40, 24))
    config = LoraConfig(r=4, lora_alpha=12, target_modules=["0", "2"], init_lora_weights=False)
    model = get_peft_model(network, config).to(device, DTYPES[dtype])
    factors = {name: p for name, p in model.named_parameters() if "lora" in name}
    with torch.no_grad():
        for factor in factors.values():
            factor.mul_(0.1)
    value = AdapterL2Loss().penalty(model)
    value.backward()
    expected = 0.0
    for name, down in factors.items():
        if "lora_A" not in name:
            continue
        up = factors[name.replace("lora_A", "lora_B")]
        a, b = (factor.detach().cpu().double() for factor in (down, up))
        update = 3 * b @ a
        expected += float(update.square().sum())
        # d ||s B A||^2 / dA = 2 s^2 B^T B A, rounded once to the factor's own dtype.
        for factor, true in ((down, 2 * 3 * b.t() @ update), (up, 2 * 3 * update @ a.t())):
            apart = (factor.grad.cpu().double() - true).norm() / true.norm()
            assert float(apart) < max(torch.finfo(DTYPES[dtype]).eps, 1e-5)
    assert value.dtype == torch.float32 and value.device.type == device
    assert math.isclose(value.item(), expected, rel_tol=1e-5)


@each_device
def test_float32_products_on_a_device_are_not_rounded_to_tf32(device):
    """TF32 keeps 10 bits: every comparison above in float32 would compare something else."""
    left, right = (torch.randn(256, 256, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    exact = left.double() @ right.double()
    found = (left.to(device) @ right.to(device)).cpu().double()
    assert float((found - exact).norm() / exact.norm()) < 5e-6
