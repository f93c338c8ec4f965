# SPDX-License-Identifier: Apache-2.0
"""Which roles are on: weights of `None` resolved by what the run has, numbers checked against what they need."""

import logging
from typing import NamedTuple

from ..objective.schedules import Schedule
from .config import EXTRA_ROLES, RECOMMENDED_WEIGHTS, ContrastiveRobustConfig

logger = logging.getLogger(__name__)

_FLOAT16 = "the trained weights are float16, which a further gradient may overflow; set the weight to try it"


class RunFacts(NamedTuple):
    """
    What a run lacks: each is why a need is not met, as a sentence without its end, or None where it is.

    Args:
        no_teacher (`str`, *optional*):
            No teacher was given, and the student has no frozen base to take its place.
        no_base (`str`, *optional*):
            The student has no frozen base.
        no_regularization (`str`, *optional*):
            The chosen loss cannot be taken: the student has no frozen base to compare with, or no adapter to penalise.
        no_noisy_view (`str`, *optional*):
            The student cannot be run on a perturbed input beside the clean one.
        obstacle (`str`, *optional*):
            No extra term can run at all.
        float16 (`bool`, *optional*, defaults to `False`):
            Weights that train are float16 themselves, without copies in float32 beside them.
    """

    no_teacher: str | None = None
    no_base: str | None = None
    no_regularization: str | None = None
    no_noisy_view: str | None = None
    obstacle: str | None = None
    float16: bool = False


def find_obstacle(
    *,
    vision: bool,
    prompt_learning: bool,
    bound_adapter: str | None,
    own_loss: bool,
    smoothing: bool,
    split_sequences: bool,
) -> str | None:
    """
    Returns why no extra term can run at all, as a sentence without its end, or None.

    Args:
        vision (`bool`):
            The dataset has images.
        prompt_learning (`bool`):
            The student's adapter is one of virtual tokens.
        bound_adapter (`str`, *optional*):
            The type of the student's adapter, if it computes something once per call of the whole model.
        own_loss (`bool`):
            A `compute_loss_func` was given.
        smoothing (`bool`):
            Labels are smoothed.
        split_sequences (`bool`):
            Context or sequence parallelism is on.
    """
    if vision:
        return "vision datasets train with the task loss alone, the noisy and teacher views read text"
    if prompt_learning:
        return (
            "prompt-learning adapters prepend virtual tokens inside the forward, which the extra views would not "
            "share; use LoRA"
        )
    if bound_adapter:
        return (
            f"{bound_adapter} adapters compute a part of their arithmetic once per call of the whole model, from the clean "
            "prompts, and the extra views are further passes within that call; use LoRA"
        )
    if own_loss:
        return "compute_loss_func replaces the loss that the extra terms are added to"
    if smoothing:
        return "label_smoothing_factor needs the full logits, which are never built"
    if split_sequences:
        return "context and sequence parallelism split the sequence that the views are aligned on"
    return None


def resolve_schedules(args: ContrastiveRobustConfig, facts: RunFacts) -> dict[str, Schedule]:
    """
    Returns the schedule of each role that is on.

    Raises:
        ValueError: If a weight was set whose need is missing, or every weight is 0.
    """
    schedules = {"task": args.build_schedule("task", args.task_weight)}
    missing = facts.obstacle or facts.no_teacher
    if args.label_trust and missing:
        raise ValueError(f"label_trust=True: {missing}. Remedy that, or set label_trust=False.")
    if facts.obstacle and "task" in (args.role_rows or {}):
        raise ValueError(f"role_rows['task']: {facts.obstacle}. Remedy that, or leave the rule out.")
    _require_weighable(args, facts)
    chosen: dict[str | None, list[str]] = {}  # by the reason against them
    for role in EXTRA_ROLES:
        weight = getattr(args, f"{role}_weight")
        missing = facts.obstacle or _missing(role, args, facts)
        if weight is None:
            against = missing or (_FLOAT16 if facts.float16 else None)
            weight = 0.0 if against else RECOMMENDED_WEIGHTS[role]
            chosen.setdefault(against, []).append(f"{role}_weight={weight:g}")
            if against:
                continue
        schedules[role] = args.build_schedule(role, weight)
        if missing and schedules[role].ever_on:
            raise ValueError(f"{role}_weight={weight:g}: {missing}. Remedy that, or set {role}_weight=0.")
    task = schedules["task"]
    if facts.obstacle and (task.weight != 1 or task.shape != "constant"):
        raise ValueError(
            f"task_weight={task.weight:g}, task_schedule={task.shape!r}: {facts.obstacle}. Remedy that, or keep the "
            "task at weight 1, constant."
        )
    if chosen:
        said = [" and ".join(names) + (f" ({against})" if against else "") for against, names in chosen.items()]
        logger.warning("Weights that were left at None: %s.", "; ".join(said))
    active = {role: schedule for role, schedule in schedules.items() if schedule.ever_on}
    if not active:
        raise ValueError("task_weight=0: every weight of the objective is 0, so nothing would train. Raise one.")
    idle = [role for role in args.role_rows or {} if role not in active]
    if idle:
        logger.warning("role_rows: %s off in this run, so its rule chooses nothing.", " and ".join(idle))
    for role in args.token_weights.keys() - active.keys():
        logger.warning("%s_token_weights: %s is off in this run, so no token is weighed.", role, role)
    return active


def require_safe_noisy_view(
    args: ContrastiveRobustConfig,
    *,
    one_row: bool,
    mixture: bool,
    reentrant: bool,
    several_processes: bool,
    spread: bool,
    sharded: bool,
    texts_known: bool,
) -> None:
    """
    Raises ValueError where the noisy view cannot be run in the way that was asked for.

    Args:
        args ([`~training.config.ContrastiveRobustConfig`]):
            Says what perturbs the input and how the pass over it is run.
        one_row (`bool`):
            Batches are padding-free.
        mixture (`bool`):
            The model's auxiliary loss is read off its router logits.
        reentrant (`bool`):
            Gradient checkpointing is on and reentrant.
        several_processes (`bool`):
            The run has more than one.
        spread (`bool`):
            Layers lie on several devices, or their weights are sharded by ZeRO-3.
        sharded (`bool`):
            Weights are sharded, by FSDP or DeepSpeed.
        texts_known (`bool`):
            The trainer prepared a dataset from text.
    """
    batched, recompute, searches = args.noisy_view_batched, args.noisy_view_recompute, args.perturbation_searches
    if args.perturbs("text") and not texts_known:
        raise ValueError(
            "perturbation: no dataset was prepared by this trainer (skip_prepare_dataset, or only a data collator), so no "
            "document's text is known. Let it prepare the dataset, or use a perturbation of ids or embeddings."
        )
    if batched and one_row:
        raise ValueError(
            "noisy_view_batched=True: a padding-free batch is one row whose positions start anew with each text, which "
            "a second row would not be told apart from. Set padding_free=False or noisy_view_batched=False."
        )
    if batched and mixture:
        raise ValueError(
            "noisy_view_batched=True: the auxiliary loss of the experts would count the noisy view's tokens too. Set "
            "router_aux_loss_coef=0 or noisy_view_batched=False."
        )
    if recompute and spread:
        raise ValueError(
            "noisy_view_recompute=True: with layers on several devices or sharded by ZeRO-3, the second run could draw "
            "another dropout or find other weights, and the gradient would be wrong without an error. Use gradient "
            "checkpointing instead."
        )
    if searches and sharded:
        raise ValueError(
            "perturbation: a search for adversarial noise takes gradients in the middle of the forward pass, after which "
            "FSDP and DeepSpeed put sharded weights away that the pass still needs. Use DDP, or another perturbation."
        )
    if reentrant and searches:
        raise ValueError(
            "use_reentrant=True: adversarial noise needs gradients of the embeddings alone, which reentrant checkpointing "
            "cannot give. Set gradient_checkpointing_kwargs={'use_reentrant': False}, or use another perturbation."
        )
    if reentrant and (recompute or several_processes) and not batched:
        raise ValueError(
            "use_reentrant=True: with several processes, or noisy_view_recompute, a second pass over the backbone "
            "corrupts the gradients without an error. Set gradient_checkpointing_kwargs={'use_reentrant': False}, "
            "noisy_view_batched=True or consistency_weight=0."
        )


def _require_weighable(args: ContrastiveRobustConfig, facts: RunFacts) -> None:
    """Raises ValueError where tokens are to be weighed by what the run does not have."""
    for role, part in args.token_weights.items():
        missing = facts.obstacle
        if "teacher" in part.needs:
            missing = missing or facts.no_teacher
        if "reference" in part.needs and facts.no_base:
            missing = missing or f"it compares with the base model, but {facts.no_base}"
        if missing:
            field = f"{role}_token_weights"
            raise ValueError(f"{field}={getattr(args, field)!r}: {missing}. Remedy that, or set {field}='uniform'.")


def _missing(role: str, args: ContrastiveRobustConfig, facts: RunFacts) -> str | None:
    if role in ("distillation", "contrastive"):
        return facts.no_teacher
    if role == "consistency" and args.consistency_target == "teacher" and facts.no_teacher:
        return f"consistency_target='teacher', but {facts.no_teacher}"
    return facts.no_noisy_view if role == "consistency" else facts.no_regularization
