# SPDX-License-Identifier: Apache-2.0
"""Which settings of a run would need less memory, for the error of a step that found none."""

import copy
from typing import Any, NamedTuple

import torch

from ..kernels.tile_program import tile_sizes
from ..models._upstream import whole_shape
from .resolution import require_safe_noisy_view

# Smaller tiles than this save little and leave the matrix units idle.
_SMALLEST_TILE = 64


class MemoryFacts(NamedTuple):
    """
    What a run's memory depends on. What stands behind `trains_adapters` belongs to the objective, and keeps its default
    where SFTTrainer's own loss trains.

    Args:
        batch_size (`int`), accumulation_steps (`int`):
            Rows of a batch on one device, and batches of an optimizer step.
        checkpointing (`bool`):
            Gradient checkpointing is on.
        max_length (`int`, *optional*):
            Tokens that longer texts are cut to.
        trains_adapters (`bool`):
            Adapters train on a backbone that is not quantized.
        smallest_batch (`int`, *optional*, defaults to `1`):
            Fewer rows the objective would refuse.
        contrasts (`bool`, *optional*, defaults to `False`):
            A batch's positions are each other's negatives.
        tile (`int`, *optional*, defaults to `0`):
            Positions that are projected at a time.
        noisy (`bool`, *optional*, defaults to `False`):
            There is a noisy view.
        batched (`bool`, *optional*, defaults to `False`):
            It goes through the backbone together with the clean one.
        may_recompute (`bool`, *optional*, defaults to `False`):
            Its pass keeps its activations, and this run would be allowed to compute them again.
        fraction (`float`, *optional*, defaults to `1.0`):
            Probability that a row is perturbed.
        whole_teacher (`bool`, *optional*, defaults to `False`):
            There is a teacher model, and it is not quantized.
    """

    batch_size: int
    accumulation_steps: int
    checkpointing: bool
    max_length: int | None
    trains_adapters: bool
    smallest_batch: int = 1
    contrasts: bool = False
    tile: int = 0
    noisy: bool = False
    batched: bool = False
    may_recompute: bool = False
    fraction: float = 1.0
    whole_teacher: bool = False


def memory_advice(facts: MemoryFacts) -> str:
    """
    Returns which settings would need less memory, those first that cost least, and what each costs.

    The first ones cost time alone. From the fraction on they change what is learnt.

    Example:

    >>> memory_advice(MemoryFacts(4, 2, True, None, False))
    'This run would need less memory with per_device_train_batch_size=2 and gradient_accumulation_steps=4 (the same step in smaller parts).'
    """
    found = []
    if facts.tile > _SMALLEST_TILE:
        found.append(f"objective_chunk_size={max(facts.tile // 4, _SMALLEST_TILE)} (hardly any time)")
    if facts.may_recompute:
        apart = "noisy_view_batched=False and " if facts.batched else ""
        found.append(f"{apart}noisy_view_recompute=True (one more pass over the noisy input)")
    if not facts.checkpointing:
        found.append("gradient_checkpointing=True (about a third more time)")
    smaller = facts.batch_size // 2
    if smaller >= facts.smallest_batch:
        steps = -(-facts.batch_size * facts.accumulation_steps // smaller)
        cost = "the same step in smaller parts" + (", with fewer negatives" if facts.contrasts else "")
        found.append(f"per_device_train_batch_size={smaller} and gradient_accumulation_steps={steps} ({cost})")
    if facts.noisy and facts.fraction == 1 and facts.batch_size > 1:
        found.append("consistency_fraction=0.5 (a noisier estimate of the consistency term)")
    if facts.whole_teacher:
        found.append(
            "the teacher in 4 bits, by teacher_quantization_config if it is given by name (a rounded teacher)"
        )
    if facts.trains_adapters:
        found.append("quantization_config=BitsAndBytesConfig(load_in_4bit=True) for the model (a rounded backbone)")
    if facts.max_length is not None and facts.max_length > 1:
        found.append(f"max_length={facts.max_length // 2} (longer texts are cut)")
    if not found:
        return (
            "No setting of this run is left that would need less memory: shorten the texts, or take a smaller model or a "
            "device with more."
        )
    order = ", those first that cost least" if len(found) > 1 else ""
    return f"This run would need less memory with{order}{':' if order else ''} {'; '.join(found)}."


def memory_facts(trainer: Any) -> MemoryFacts:
    """Reads the facts off a [`~training.trainer.ContrastiveRobustTrainer`]."""
    args, objective = trainer.args, trainer.objective
    facts = MemoryFacts(
        # Trainer's own count, which auto_find_batch_size lowers.
        batch_size=trainer._train_batch_size // max(args.n_gpu, 1),
        accumulation_steps=args.gradient_accumulation_steps,
        checkpointing=args.gradient_checkpointing,
        max_length=args.max_length,
        trains_adapters=hasattr(trainer.model, "peft_config") and not _is_quantized(trainer.model),
    )
    if objective is None:
        return facts
    head = trainer._causal_lm.get_output_embeddings().weight
    noisy, teacher_model = trainer._extra_passes.noisy, getattr(trainer._extra_passes.teacher, "model", None)
    return facts._replace(
        smallest_batch=2 if objective.contrast is not None and objective.contrast.level == "sequence" else 1,
        contrasts=objective.contrast is not None,
        tile=tile_sizes(2**31, whole_shape(head)[0], head.device, objective.chunk_size).tile,
        noisy=noisy is not None,
        batched=noisy is not None and noisy.batched,
        may_recompute=noisy is not None and not noisy.recompute and _may_recompute(args, trainer._noisy_view_facts),
        fraction=1.0 if noisy is None else noisy.fraction,
        whole_teacher=teacher_model is not None and not _is_quantized(teacher_model),
    )


def _may_recompute(args: Any, noisy_view_facts: dict[str, Any]) -> bool:
    """Asks the rules themselves, so that no advice is given that the next run would refuse."""
    changed = copy.copy(args)
    changed.noisy_view_recompute, changed.noisy_view_batched = True, False
    try:
        require_safe_noisy_view(changed, **noisy_view_facts)
    except ValueError:
        return False
    return not args.perturbation_searches


def _is_quantized(model: Any) -> bool:
    return getattr(model, "hf_quantizer", None) is not None


def with_advice(error: torch.OutOfMemoryError, trainer: Any) -> torch.OutOfMemoryError:
    """
    Returns the error anew with the advice behind its text.

    A fault in finding the advice must not hide that memory ran out: then the text is that of the error alone.
    """
    try:
        return torch.OutOfMemoryError(f"{error} {memory_advice(memory_facts(trainer))}")
    except Exception:
        return torch.OutOfMemoryError(str(error))
