# SPDX-License-Identifier: Apache-2.0
"""The memory formula at the sizes of a run that was built and not trained."""

from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import is_peft_model

from ..hub.run_card import run_backbone
from .memory_model import FitCase, adapter_parameters, longest, parts, peak_bytes
from .shapes import ModelShape

# 10^9 bytes: cards of common sizes, for a run that has none.
CARDS = (24, 40, 80)
# Share of the parameters by which a model may differ from the shape, for biases and further norms.
_TOLERATED = 0.01
_PRECISIONS = {"nf4": "nf4", "fp4": "nf4", "int8": "int8", "bfloat16": "bf16", "float16": "bf16", "float32": "bf16"}


@dataclass(frozen=True)
class RunMemory:
    """
    What a run holds in a card's memory, by calculation.

    Args:
        tokens (`int`):
            Of a micro-batch, padding included.
        parts (`dict[str, float]`):
            Bytes by part; of the last two only the larger counts, see [`~fit.memory_model.parts`].
        teachers (`float`):
            Bytes of teachers that are models of their own, read off their weights.
        peak (`float`):
            Of all of them.
        fits (`dict[str, int]`):
            By card, tokens of a micro-batch that fit.
        differences (`tuple[str, ...]`):
            What the formula takes for granted and this run has otherwise.
    """

    tokens: int
    parts: dict[str, float]
    teachers: float
    peak: float
    fits: dict[str, int]
    differences: tuple[str, ...]


def run_memory(trainer: Any, tokens: int) -> RunMemory | str:
    """
    Returns the memory of a trainer's run, or why the formula is not of it, as a sentence without its end.

    Args:
        trainer ([`~training.trainer.ContrastiveRobustTrainer`]):
            Built and not trained.
        tokens (`int`):
            Of a micro-batch, padding included.
    """
    case = _case(trainer)
    if isinstance(case, str):
        return case
    teachers = _teacher_bytes(trainer)
    cards = {f"{size} GB": size * 1e9 for size in CARDS}
    if trainer.args.device.type == "cuda":
        about = torch.cuda.get_device_properties(trainer.args.device)
        cards = {f"{about.name}, {about.total_memory / 1e9:.0f} GB": float(about.total_memory)}
    return RunMemory(
        tokens=tokens,
        parts=parts(case, tokens),
        teachers=teachers,
        peak=peak_bytes(case, tokens) + teachers,
        fits={name: longest(case, size - teachers) for name, size in cards.items()},
        differences=tuple(_differences(trainer, case)),
    )


def _case(trainer: Any) -> FitCase | str:
    model = trainer.model
    if not is_peft_model(model) or not hasattr(model.active_peft_config, "r"):
        return "it is of LoRA adapters over a frozen backbone, and this run trains no such adapter"
    shape = ModelShape.of(model.config)
    trained, total = model.get_nb_trainable_parameters()
    if shape is None or abs(total - trained - shape.parameters) > _TOLERATED * shape.parameters:
        return f"it is of Llama-like layers, and {type(trainer._causal_lm).__name__} is built otherwise"
    weights = run_backbone(trainer)["backbone"]["weights"]
    if weights not in _PRECISIONS:
        return f"it is of backbones in bfloat16, 8 bits and 4 bits, and this one is held in {weights}"
    return FitCase(shape, _PRECISIONS[weights], model.active_peft_config.r, trainer.args.noisy_view_recompute)


def _differences(trainer: Any, case: FitCase) -> list[str]:
    args, objective = trainer.args, trainer.objective
    trained, _ = trainer.model.get_nb_trainable_parameters()
    weights = run_backbone(trainer)["backbone"]["weights"]
    found = []
    if case.precision == "bf16" and weights != "bfloat16":
        found.append(f"a backbone in bfloat16, and this run's is held in {weights}")
    expected = adapter_parameters(case)
    if abs(trained - expected) > _TOLERATED * expected:
        found.append(f"{expected:,} trained parameters (LoRA on all linear layers), and this run has {trained:,}")
    if not args.gradient_checkpointing:
        found.append("gradient checkpointing, and this run keeps all activations")
    if objective is None or not {"teacher", "noisy"} <= set(objective.views):
        found.append("all terms, and this run has fewer")
    return found


def _teacher_bytes(trainer: Any) -> float:
    """Weights of the teachers that the student's own do not include."""
    teacher = None if trainer.objective is None else trainer._extra_passes.teacher
    own = {id(parameter) for parameter in trainer.model.parameters()}
    found: dict[int, int] = {}
    for one in _within(teacher):
        model = getattr(one, "model", None)
        if isinstance(model, torch.nn.Module):
            found |= {id(p): p.numel() * p.element_size() for p in model.parameters() if id(p) not in own}
    return float(sum(found.values()))


def _within(teacher: Any) -> list[Any]:
    if teacher is None:
        return []
    inner = [*(teacher.parts or {}).values(), getattr(teacher, "inner", None)]
    return [teacher, *(found for one in inner for found in _within(one))]
