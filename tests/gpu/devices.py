# SPDX-License-Identifier: Apache-2.0
"""Runs and comparisons on a named device: what the tests of this folder share."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft.utils.integrations import dequantize_bnb_weight
from transformers import TrainerCallback

from tests.trainers import build, load

CUDA = pytest.param("cuda", marks=pytest.mark.gpu)
each_device = pytest.mark.parametrize("device", ["cpu", CUDA])
on_cuda = pytest.mark.parametrize("device", [CUDA])


def build_on(device: str, folder: Path, model: Any, data: Any = None, **options: Any) -> Any:
    """A trainer of this package on a device; `options` as for `tests.trainers.build`."""
    return build(folder, model, data, **{"use_cpu": device == "cpu", **options})


def to_device(batch: dict[str, Any], device: str) -> dict[str, Any]:
    return {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}


class FirstGradients(TrainerCallback):
    """
    Keeps the gradients of each optimizer step as the optimizer gets them: unscaled, not clipped.

    Needs `max_grad_norm` above 0, which is what makes Trainer undo the loss scale before this is asked.
    """

    def __init__(self) -> None:
        self.by_step: list[dict[str, torch.Tensor]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.by_step.append(
            {name: p.grad.detach().double().cpu() for name, p in model.named_parameters() if p.grad is not None}
        )


def plain_copy(folder: Path, trainer: Any, adapter: Any) -> Any:
    """
    The same student in float32, without quantization: the backbone's weights as they are read from their codes, and the
    adapter's as they stand. Give it to a trainer without `peft_config`.
    """
    from peft import get_peft_model

    plain = get_peft_model(load(folder), adapter)
    found = dict(trainer.model.named_modules())
    with torch.no_grad():
        for name, module in plain.named_modules():
            source = found[name]
            weight = source._parameters.get("weight")
            if weight is not None and weight.__class__.__name__ in ("Params4bit", "Int8Params"):
                read = dequantize_bnb_weight(weight, state=getattr(source, "state", None))
                assert read.shape == module.weight.shape, name
                module.weight.copy_(read)
                continue
            for key, parameter in module.named_parameters(recurse=False):
                parameter.copy_(getattr(source, key))
    return plain


def distances(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> dict[str, float]:
    """Relative Euclidean distance of each gradient from its expectation."""
    assert found.keys() == expected.keys() and found
    apart = {name: float((found[name] - value).norm() / value.norm()) for name, value in expected.items()}
    return dict(sorted(apart.items(), key=lambda one: -one[1]))
