# SPDX-License-Identifier: Apache-2.0
"""The adapters' squared update against the update written out; `reference` is what the contracts compare against."""

import logging
import math

import pytest
import torch
from peft import AdaLoraConfig, IA3Config, LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from hf_ckt.losses import adapter_l2
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
    """An embedding, two linear layers of different shape and a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(13, 6)
        self.up = nn.Linear(6, 10)
        self.down = nn.Linear(10, 4, bias=False)
        self.conv = nn.Conv1d(4, 5, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.conv(self.down(self.up(self.embed(ids))).transpose(1, 2))


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


@pytest.mark.parametrize(
    "config",
    [
        IA3Config(target_modules=["up"], feedforward_modules=[]),
        AdaLoraConfig(target_modules=["up"], init_r=3, target_r=2, total_step=10, init_lora_weights=False),
    ],
    ids=["ia3", "adalora"],
)
def test_other_adapters_fall_back_to_the_norm_of_their_parameters_and_say_so(config, caplog):
    """IA3 has no low-rank part, AdaLoRA a third factor: a wrong product would be a penalty on something else."""
    adapter_l2._say_fallback.cache_clear()
    model = adapted(config)
    with caplog.at_level(logging.WARNING):
        value = AdapterL2Loss().penalty(model)
        AdapterL2Loss().penalty(model)
    expected = sum(p.square().sum() for p in model.parameters() if p.requires_grad)
    torch.testing.assert_close(value, expected)
    assert value > 0
    said = [record.message for record in caplog.records if "adapter_l2" in record.message]
    assert len(said) == 1 and "squared norm of the trainable parameters" in said[0]
