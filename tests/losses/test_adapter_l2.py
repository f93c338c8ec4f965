# SPDX-License-Identifier: Apache-2.0
"""The adapters' squared update against the update written out; `reference` is what the contracts compare against."""

import math

import pytest
import torch
from peft import (
    AdaLoraConfig,
    FourierFTConfig,
    HRAConfig,
    IA3Config,
    LNTuningConfig,
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    VeraConfig,
    get_peft_model,
)
from peft.tuners.lora.config import BdLoraConfig, KasaConfig
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from hf_ckt.losses.adapter_l2 import AdapterL2Loss


def reference(model: nn.Module) -> float:
    """Of plain LoRA on linear layers, a number at a time."""
    (config,) = model.peft_config.values()
    factors = {name: value.tolist() for name, value in model.named_parameters() if value.requires_grad}
    squares = []
    for name, down in factors.items():
        if "lora_A" in name:
            for row in factors[name.replace("lora_A", "lora_B")]:
                update = [
                    math.fsum(b * a for b, a in zip(row, column, strict=True)) for column in zip(*down, strict=True)
                ]
                squares += [(config.lora_alpha / config.r * value) ** 2 for value in update]
    return math.fsum(squares)


class Network(nn.Module):
    """An embedding, two linear layers of different shape, a norm between them, and a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(13, 6)
        self.up = nn.Linear(6, 10)
        self.norm = nn.LayerNorm(10)
        self.down = nn.Linear(10, 4, bias=False)
        self.conv = nn.Conv1d(4, 5, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.conv(self.down(self.norm(self.up(self.embed(ids)))).transpose(1, 2))


class Experts(nn.Module):
    """Three experts in one parameter, as mixtures of experts have them."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 6, 7))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bi,eio->beo", x, self.weight)


def adapted(config=None, base: nn.Module | None = None, **lora):
    torch.manual_seed(0)
    config = config or LoraConfig(r=2, lora_alpha=6, init_lora_weights=False, **lora)
    return get_peft_model(base or Network(), config).double()


def layers(model: nn.Module) -> list:
    """(A, B, module, adapter) of every low-rank adapter, A as `(r, in)` and B as `(out, r)`."""
    found = []
    for module in model.modules():
        for first, second in (("lora_A", "lora_B"), ("lora_embedding_A", "lora_embedding_B")):
            for name, down in getattr(module, first, {}).items():
                up = getattr(module, second)[name]
                found.append((getattr(down, "weight", down), getattr(up, "weight", up), module, name))
    return found


def explicit(model: nn.Module, scale: float) -> Tensor:
    return torch.stack([(scale * (b.flatten(1) @ a.flatten(1))).square().sum() for a, b, *_ in layers(model)]).sum()


LORAS = {
    "lora": ({"target_modules": ["up", "down"]}, 6 / 2),
    "rslora": ({"target_modules": ["up", "down"], "use_rslora": True}, 6 / math.sqrt(2)),
    "dora": ({"target_modules": ["up", "down"], "use_dora": True}, 6 / 2),
    "embedding": ({"target_modules": ["embed", "up"]}, 6 / 2),
    "convolution": ({"target_modules": ["conv"]}, 6 / 2),
}


@pytest.mark.parametrize("kind", LORAS)
def test_penalty_equals_the_explicit_update(kind):
    """With alpha / r under rsLoRA the penalty is wrong by r, and the recommended weight means another strength."""
    options, scale = LORAS[kind]
    model = adapted(**options)
    value, expected = AdapterL2Loss().penalty(model), explicit(model, scale)
    assert len(layers(model)) == len(options["target_modules"]) and expected > 0.01
    torch.testing.assert_close(value, expected)
    leaves = [parameter for name, parameter in model.named_parameters() if "lora_A" in name or "lora_B" in name]
    leaves = leaves or [p for name, p in model.named_parameters() if "lora_embedding" in name]
    for found, truth in zip(torch.autograd.grad(value, leaves), torch.autograd.grad(expected, leaves), strict=True):
        torch.testing.assert_close(found, truth)


@pytest.mark.parametrize("kind", ["lora", "rslora", "dora", "convolution"])
def test_penalty_is_that_of_the_update_that_peft_merges(kind):
    """PEFT itself is asked what it adds to each weight, so a scale that moves there is heard here."""
    model = adapted(**LORAS[kind][0])
    merged = [module.get_delta_weight(name).double().square().sum() for _, _, module, name in layers(model)]
    torch.testing.assert_close(AdapterL2Loss().penalty(model), torch.stack(merged).sum())


def test_penalty_sums_over_trainable_adapters_only():
    """A frozen teacher adapter on the same backbone would add a constant that looks like a penalty."""
    model = adapted(target_modules=["up"])
    alone = AdapterL2Loss().penalty(model)
    config = LoraConfig(r=3, lora_alpha=3, target_modules=["up", "down"], init_lora_weights=False)
    model.add_adapter("other", config)
    model.double()
    frozen = [parameter for name, parameter in model.named_parameters() if ".other." in name]
    for parameter in frozen:
        parameter.requires_grad_(False)
    torch.testing.assert_close(AdapterL2Loss().penalty(model), alone)
    for parameter in frozen:
        parameter.requires_grad_(True)
    scales = {"default": 3.0, "other": 1.0}
    expected = sum((scales[name] * b @ a).square().sum() for a, b, _, name in layers(model))
    torch.testing.assert_close(AdapterL2Loss().penalty(model), expected)


def test_penalty_of_stacked_experts_is_the_sum_over_experts():
    """Their factors lie in one matrix: multiplied as one, the product mixes experts that never meet."""
    model = adapted(target_modules=[], target_parameters=["0.weight"], base=nn.Sequential(Experts()))
    (module,) = {module for *_, module, _ in layers(model)}
    assert module.num_experts == 3
    expected = module.get_delta_weight("default").double().square().sum()
    torch.testing.assert_close(AdapterL2Loss().penalty(model), expected)


def test_penalty_of_untouched_adapters_is_zero_with_zero_gradient():
    """At the start B is 0: a penalty there would be one on A, which changes nothing that the model computes."""
    model = adapted(LoraConfig(r=2, target_modules=["up"]))
    value = AdapterL2Loss().penalty(model)
    value.backward()
    assert value.item() == 0
    assert all(not p.grad.any() for p in model.parameters() if p.requires_grad)


def test_penalty_never_forms_the_update():
    """`out x in` for every layer at every step would cost as much memory as the frozen backbone."""

    class Shapes(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.largest = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if isinstance(result, Tensor):
                self.largest = max(self.largest, result.numel())
            return result

    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(50, 40)

    model = adapted(target_modules=["layer"], base=Wide())
    with Shapes() as shapes:
        AdapterL2Loss().penalty(model).backward()
    assert shapes.largest <= 2 * 50  # r x in


def test_penalty_of_half_precision_adapters_is_summed_in_float32():
    """Squares below 6e-8 vanish in float16, and with them the penalty of a young adapter."""
    model = adapted(target_modules=["up"]).to(torch.float16)
    for parameter in model.parameters():
        parameter.data.mul_(0.01)
    value = AdapterL2Loss().penalty(model)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), explicit(model.double(), 3.0), rtol=1e-5, atol=0)


OTHERS = {
    "ia3": lambda: IA3Config(target_modules=["up"], feedforward_modules=[]),
    "ln_tuning": lambda: LNTuningConfig(target_modules=["norm"]),
    "adalora": lambda: AdaLoraConfig(target_modules=["up"], init_r=3, target_r=2, lora_alpha=6, total_step=10),
    "lora_bias": lambda: LoraConfig(target_modules=["up"], r=2, lora_alpha=6, lora_bias=True),
    "orthogonal": lambda: LoraConfig(target_modules=["up"], r=2, init_lora_weights="orthogonal"),
}


def trained(model: nn.Module) -> list[Tensor]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


@pytest.mark.parametrize("kind", OTHERS)
def test_penalty_is_zero_where_the_adapter_changes_nothing(kind):
    """IA3's factors are 1 and a norm's weights are its base's there: their norm would pull the student off its base."""
    torch.manual_seed(0)
    base, ids = Network().double(), torch.arange(12)[None]
    with torch.no_grad():
        base.norm.weight.normal_()
        base.norm.bias.normal_()
        plain = base(ids)
    model = adapted(OTHERS[kind](), base)
    torch.testing.assert_close(model(ids), plain, rtol=1e-6, atol=1e-6)
    value = AdapterL2Loss().penalty(model)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-12)
    gradients = [p.grad for p in trained(model) if p.grad is not None]
    assert gradients and all(g.abs().max() < 1e-6 for g in gradients)


def test_penalty_of_ia3_is_the_squared_distance_of_its_factors_from_one():
    """At the recommended weight the squared norm moves KL(base, student) from 0 to 0.35 in 60 steps, all by itself."""
    model = adapted(OTHERS["ia3"]())
    (factors,) = trained(model)
    with torch.no_grad():
        factors.flatten()[0] = 3.0
        factors.flatten()[1] = 0.5
    assert AdapterL2Loss().penalty(model).item() == pytest.approx(2.0**2 + 0.5**2)


def test_penalty_of_ln_tuning_is_the_squared_distance_from_the_bases_layer():
    """The base's own scale is far from 0, and from 1 in many models."""
    base = Network()
    nn.init.constant_(base.norm.weight, 5.0)
    model = adapted(OTHERS["ln_tuning"](), base)
    weight, bias = trained(model)
    with torch.no_grad():
        weight[1] = 4.0
        bias[2] = 0.5
    assert AdapterL2Loss().penalty(model).item() == pytest.approx(1.0**2 + 0.5**2)


def test_penalty_of_adalora_is_that_of_the_update_that_peft_merges():
    """It has singular values between its factors: without them the product is another update, and never 0."""
    model = adapted(OTHERS["adalora"]())
    with torch.no_grad():
        for parameter in trained(model):
            parameter.normal_()
    (module,) = [module for module in model.modules() if hasattr(module, "lora_E")]
    expected = module.get_delta_weight("default").square().sum()
    torch.testing.assert_close(AdapterL2Loss().penalty(model), expected)


def test_penalty_counts_the_bias_that_an_adapter_adds():
    """Trained alone it would move the student for free."""
    model = adapted(OTHERS["lora_bias"]())
    (module,) = [module for module in model.modules() if getattr(module, "lora_A", None)]
    with torch.no_grad():
        module.lora_B["default"].bias[0] = 0.5
        moved = module(torch.zeros(1, 6).double()) - module.base_layer(torch.zeros(1, 6).double())
    assert AdapterL2Loss().penalty(model).item() == pytest.approx(moved.square().sum().item()) == (6 / 2 * 0.5) ** 2


REWRITING = ["pissa", "pissa_niter_4", "olora"]


@pytest.mark.parametrize("kind", REWRITING)
def test_penalty_begins_at_the_first_update_where_the_base_was_rewritten(kind):
    """There the base is without the first update: measured from 0 the penalty is 254 at step 1 and pulls to the rest."""
    torch.manual_seed(0)
    model = adapted(LoraConfig(r=2, lora_alpha=6, target_modules=["up", "down"], init_lora_weights=kind))
    modules = [module for *_, module, _ in layers(model)]
    first = [module.get_delta_weight("default").detach().clone() for module in modules]
    loss = AdapterL2Loss()
    loss.begin(model)
    value = loss.penalty(model)
    value.backward()
    assert value.item() == 0 and all(not p.grad.any() for p in trained(model))
    with torch.no_grad():
        for parameter in trained(model):
            parameter.add_(0.01 * torch.randn_like(parameter))
    expected = sum((m.get_delta_weight("default") - one).square().sum() for m, one in zip(modules, first, strict=True))
    assert expected > 1e-4
    torch.testing.assert_close(loss.penalty(model), expected)
    found = torch.autograd.grad(loss.penalty(model), trained(model))
    for gradient, truth in zip(found, torch.autograd.grad(expected, trained(model)), strict=True):
        torch.testing.assert_close(gradient, truth)


def test_penalty_begins_at_the_base_where_that_is_still_there():
    """An adapter that was trained before has its base yet; measured from itself it would be free to stay away from it."""
    model, loss = adapted(target_modules=["up"]), AdapterL2Loss()
    loss.begin(model)
    torch.testing.assert_close(loss.penalty(model), explicit(model, 3.0))


UNKNOWN = {
    "VERA": lambda: VeraConfig(target_modules=["up"], r=2),
    "LOHA": lambda: LoHaConfig(target_modules=["up"], r=2),
    "LOKR": lambda: LoKrConfig(target_modules=["up"], r=2),
    "FOURIERFT": lambda: FourierFTConfig(target_modules=["up"], n_frequency=5),
    "HRA": lambda: HRAConfig(target_modules=["up"], r=2),
    "use_bdlora": lambda: LoraConfig(
        target_modules=["up"], r=2, use_bdlora=BdLoraConfig(nblocks=2, target_modules_bd_b=["up"], match_strict=False)
    ),
    "kasa_config": lambda: LoraConfig(target_modules=["up"], r=2, kasa_config=KasaConfig()),
}


@pytest.mark.parametrize("kind", UNKNOWN)
def test_adapters_whose_distance_is_not_known_are_named(kind):
    """The norm of VeRA's or KaSA's parameters is not 0 where they change nothing, nor are A and B all of their update."""
    model, loss = adapted(UNKNOWN[kind]()), AdapterL2Loss()
    assert f"distance of {kind} adapters" in loss.obstacle(model) and "reference_kl" in loss.obstacle(model)


def test_known_adapters_have_no_obstacle():
    """A refusal of what is right would take the penalty away from those who train with it."""
    for options, _ in LORAS.values():
        assert AdapterL2Loss().obstacle(adapted(**options)) is None
    for config in OTHERS.values():
        assert AdapterL2Loss().obstacle(adapted(config())) is None


def test_penalty_without_a_trainable_adapter_is_an_error():
    """An adapter that is loaded for inference trains nothing: it ended in an IndexError in the first step."""
    model = adapted(target_modules=["up"]).requires_grad_(False)
    assert "is_trainable=True" in AdapterL2Loss().obstacle(model)
    with pytest.raises(ValueError, match="is_trainable=True"):
        AdapterL2Loss().penalty(model)
    copied = adapted(target_modules=["up"], modules_to_save=["down"])
    for name, parameter in copied.named_parameters():
        parameter.requires_grad_("modules_to_save" in name)
    assert "is_trainable=True" in AdapterL2Loss().obstacle(copied)
    with pytest.raises(ValueError, match="VERA"):
        AdapterL2Loss().penalty(adapted(UNKNOWN["VERA"]()))
