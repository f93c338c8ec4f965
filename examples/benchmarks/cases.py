# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks measure: cases, variants, targets, and the arithmetic that predicts a step."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from hf_ckt.discovery import load_part, part_names

# ----------------------------------------------------------------------------------------------------------- objective


@dataclass(frozen=True)
class ObjectiveCase:
    """
    One evaluation of three token losses with their gradients: nll, distillation, consistency.

    Args:
        tokens (`int`), hidden (`int`), vocab (`int`):
            N, D and V.
        dtype (`str`):
            Of hidden states and heads: `float32`, `bfloat16` or `float16`.
        device (`str`):
            `cpu` or `cuda`.
    """

    tokens: int
    hidden: int
    vocab: int
    dtype: str = "float32"
    device: str = "cpu"


DTYPES = ("float32", "bfloat16", "float16")
# Weight of each term in the total.
OBJECTIVE_WEIGHTS = {"nll": 1.0, "forward_kl": 1.0, "consistency_kl": 0.5}
# In the order of tables and bars.
OBJECTIVE_VARIANTS = {
    "hf_ckt": "one pass over tiles, compiled",
    "hf_ckt_plain": "the same, not compiled",
    "dense": "plain PyTorch on full logits, the teacher under no_grad",
    "trl": "TRL's chunked kernels, one call per term",
    "liger": "Liger's fused linear cross-entropy and JSD, one call per term",
    "floor": "five bare products with the heads, at the same tile size",
}
# By the name of the results file.
OBJECTIVE_CASES = {
    "objective_smollm2": ObjectiveCase(1024, 576, 49152),
    "objective_qwen": ObjectiveCase(512, 1024, 151936),
    "objective_8b": ObjectiveCase(8192, 4096, 151936, "bfloat16", "cuda"),
    "objective_1b": ObjectiveCase(4096, 2048, 128256, "bfloat16", "cuda"),
}
# Growth is measured around this one: each of N, D and V times each factor, the other two as here.
GROWTH_CASE = ObjectiveCase(256, 512, 32768)
GROWTH_FACTORS = (0.5, 1, 2, 4)
GROWTH_VARIANTS = ("hf_ckt", "dense")


class ObjectiveTarget(NamedTuple):
    """
    What hf_ckt may cost at most against another variant.

    Args:
        to (`str`):
            The other variant.
        quantity (`str`):
            `seconds` or `peak_extra_bytes`.
        at_most (`float`, *optional*):
            The target; None for a ratio that is reported without one.
        stretch (`float`, *optional*):
            A target beyond the target.
    """

    to: str
    quantity: str
    at_most: float | None = None
    stretch: float | None = None


_OBJECTIVE_RATIOS = (
    ObjectiveTarget("dense", "seconds"),
    ObjectiveTarget("dense", "peak_extra_bytes"),
    ObjectiveTarget("trl", "seconds"),
    ObjectiveTarget("trl", "peak_extra_bytes"),
    ObjectiveTarget("liger", "seconds"),
    ObjectiveTarget("liger", "peak_extra_bytes"),
    ObjectiveTarget("floor", "seconds"),
    ObjectiveTarget("floor", "peak_extra_bytes"),
)
_OBJECTIVE_TARGETS = {
    "objective_smollm2": (
        ObjectiveTarget("dense", "seconds", 0.55),
        ObjectiveTarget("dense", "peak_extra_bytes", 0.15, 0.09),
        ObjectiveTarget("trl", "seconds", 0.22),
        ObjectiveTarget("floor", "seconds", 1.15, 1.05),
    ),
    "objective_qwen": (
        ObjectiveTarget("dense", "seconds", 0.80),
        ObjectiveTarget("dense", "peak_extra_bytes", 0.30, 0.10),
        ObjectiveTarget("floor", "seconds", 1.15),
    ),
    "objective_8b": (
        ObjectiveTarget("dense", "seconds", 0.7),
        ObjectiveTarget("trl", "seconds", 0.5),
        ObjectiveTarget("liger", "seconds", 0.8),
        ObjectiveTarget("floor", "seconds", 1.25),
    ),
}


def objective_targets(case: ObjectiveCase) -> list[ObjectiveTarget]:
    """Returns the ratios that a case reports, with their targets where the case has any."""
    name = next((name for name, known in OBJECTIVE_CASES.items() if known == case), "")
    aimed = {(target.to, target.quantity): target for target in _OBJECTIVE_TARGETS.get(name, ())}
    return [aimed.get((ratio.to, ratio.quantity), ratio) for ratio in _OBJECTIVE_RATIOS]


def objective_command(case: ObjectiveCase, path: str, growth: bool = False) -> str:
    """Returns the command that measures a case into a file."""
    options = f"--tokens {case.tokens} --hidden {case.hidden} --vocab {case.vocab}"
    options += f" --dtype {case.dtype}" if case.dtype != "float32" else ""
    options += f" --device {case.device}" if case.device != "cpu" else ""
    return f"python examples/benchmarks/objective.py {'--growth ' if growth else ''}{options} --json {path}"


# ---------------------------------------------------------------------------------------------------------------- step


@dataclass(frozen=True)
class StepCase:
    """
    A whole training step: LoRA (r 16) on all linear layers, AdamW, every token kept.

    Args:
        model (`str`):
            `smollm2`, a folder, a Hub id, or `random-8b`: a shape of `hf_ckt.fit.shapes.SHAPES` with random weights.
        batch_size (`int`), length (`int`):
            Rows of a batch and tokens of a row.
        precision (`str`):
            `fp32`, `bf16`, or `nf4`: a 4-bit backbone.
        gradient_checkpointing (`bool`):
            Whether layers keep only their inputs for backward.
        teacher (`str`):
            Of the `hf_ckt` variants that learn from one: `self`, the student's base, or `model`, a second copy.
        layers (`int`, *optional*), shrink (`int`):
            For `random-*`: number of layers, and a divisor of its widths and vocabulary.
        data (`str`):
            `tokens`: rows of random ids that all count; or `prompts`: rows of random words, of which the second half
            is the answer and counts, since some perturbations change prompts as text.
    """

    model: str = "smollm2"
    batch_size: int = 8
    length: int = 128
    precision: str = "fp32"
    gradient_checkpointing: bool = False
    teacher: str = "self"
    layers: int | None = None
    shrink: int = 1
    data: str = "tokens"


PRECISIONS = ("fp32", "bf16", "nf4")
STEP_TEACHERS = ("self", "model")
STEP_DATA = ("tokens", "prompts")
BASELINE = "sft"

_TERMS_OFF = {f"{role}_weight": 0.0 for role in ("distillation", "contrastive", "consistency", "regularization")}
# As in examples/02_drop_in.py.
_TERMS_ON = {
    "distillation_weight": 1.0,
    "contrastive_weight": 0.1,
    "consistency_weight": 0.5,
    "regularization_weight": 1e-4,
}


@dataclass(frozen=True)
class StepVariant:
    """
    One trainer with its settings.

    Args:
        trainer (`str`):
            `sft` (trl.SFTTrainer), `gkd` (trl.experimental.gkd.GKDTrainer) or `hf_ckt`.
        fields (`dict`):
            Fields of its configuration beside the case's.
        separate_teacher (`bool`):
            Whether it always gets a second copy of the model as teacher.
        teacher (`str`, *optional*):
            The teacher that it always has, one of `TEACHERS`, whatever the case says.
    """

    trainer: str
    fields: dict[str, Any] = field(default_factory=dict)
    separate_teacher: bool = False
    teacher: str = ""


def _only(role: str, separate_teacher: bool = False) -> StepVariant:
    weight = f"{role}_weight"
    return StepVariant("hf_ckt", {**_TERMS_OFF, weight: _TERMS_ON[weight]}, separate_teacher)


def _all(**fields: Any) -> StepVariant:
    return StepVariant("hf_ckt", {**_TERMS_ON, **fields})


# The task is on in each, so that every variant does at least what `sft` does; "only" is of the four further terms.
STEP_VARIANTS = {
    BASELINE: StepVariant("sft"),
    "sft_neftune": StepVariant("sft", {"neftune_noise_alpha": 5.0}),
    # No samples of the student's own, and the divergence that hf_ckt's default is: the least that GKD can be asked for.
    "gkd": StepVariant("gkd", {"lmbda": 0.0, "beta": 0.0}, separate_teacher=True),
    "hf_ckt_model_teacher": _only("distillation", separate_teacher=True),
    "hf_ckt_distillation": _only("distillation"),
    "hf_ckt_all": _all(),
    "hf_ckt_all_recomputed": _all(noisy_view_recompute=True),
    "hf_ckt_all_batched": _all(noisy_view_batched=True),
    "hf_ckt_contrastive": _only("contrastive"),
    "hf_ckt_consistency": _only("consistency"),
    "hf_ckt_regularization": _only("regularization"),
    "hf_ckt_fraction": _all(consistency_fraction=0.25),
}
# What each perturbation costs: consistency alone, on data of prompts.
NOISE_VARIANTS = {
    f"hf_ckt_noise_{name}": StepVariant("hf_ckt", {**_only("consistency").fields, "perturbation": name})
    for name in part_names("perturbations")
}
STEP_VARIANTS |= NOISE_VARIANTS
# What each way to have a teacher costs: distillation alone.
TEACHERS = ("self", "adapter", "model", "model_4bit", "routed", "cache", "top_k")
TEACHER_VARIANTS = {
    f"hf_ckt_teacher_{name}": StepVariant("hf_ckt", _only("distillation").fields, teacher=name) for name in TEACHERS
}
STEP_VARIANTS |= TEACHER_VARIANTS


def default_variants(data: str) -> list[str]:
    """Returns the variants that are measured on that data unless others are named."""
    apart = NOISE_VARIANTS | TEACHER_VARIANTS
    return [BASELINE, *NOISE_VARIANTS] if data == "prompts" else [n for n in STEP_VARIANTS if n not in apart]


class StepPasses(NamedTuple):
    """
    What a step runs, in passes over the whole batch.

    Args:
        trained (`float`):
            Passes through the backbone with gradient.
        frozen (`float`):
            Passes without: a teacher's.
        recomputed (`float`):
            Trained passes whose whole backbone runs once more before its backward.
        projections (`float`), head_gradients (`float`):
            Products with the head towards logits, and back from their gradients. The head itself is frozen.
    """

    trained: float
    frozen: float
    recomputed: float
    projections: float
    head_gradients: float


def step_passes(variant: StepVariant) -> StepPasses:
    """Counts the passes of a variant from its settings."""
    if variant.trainer == "sft":
        # TRL's chunked head projects again in backward rather than keep the logits.
        return StepPasses(trained=1, frozen=0, recomputed=0, projections=2, head_gradients=1)
    if variant.trainer == "gkd":
        return StepPasses(trained=1, frozen=1, recomputed=0, projections=2, head_gradients=1)
    fields = variant.fields
    # The contrastive term needs no logits, but a teacher that runs is also reported on, which needs its.
    teacher = float(fields["distillation_weight"] > 0 or fields["contrastive_weight"] > 0)
    noisy = fields.get("consistency_fraction", 1.0) if fields["consistency_weight"] > 0 else 0.0
    # A search passes forward and back like a trained pass, and projects the clean view again beside its own.
    name = fields.get("perturbation")
    searched = float(name is not None and getattr(load_part("perturbations", name), "searches", False))
    return StepPasses(
        trained=1 + noisy + searched,
        frozen=0.0 if variant.teacher in ("cache", "top_k") else teacher,
        recomputed=noisy if fields.get("noisy_view_recompute") else 0.0,
        projections=1 + noisy + teacher * (variant.teacher != "top_k") + 2 * searched,
        head_gradients=1 + noisy + searched,
    )


def step_units(passes: StepPasses, backbone: float, head: float, gradient_checkpointing: bool) -> float:
    """
    Predicts the work of a step, in multiply-adds per token.

        units = backbone * (trained * (forward 1 + backward 1 + checkpointing 1) + recomputed + frozen)
              + head * (projections + head gradients)

    A frozen weight costs its size forward, and once more backward for the gradient of its input; checkpointing runs
    each layer forward again. Attention, LoRA, norms and everything elementwise are left out.

    Args:
        passes ([`StepPasses`]):
            Of [`step_passes`].
        backbone (`float`), head (`float`):
            Parameters of the linear layers below the head, and of the head.
        gradient_checkpointing (`bool`):
            As in [`StepCase`].
    """
    trained = 3 if gradient_checkpointing else 2
    return backbone * (passes.trained * trained + passes.recomputed + passes.frozen) + head * (
        passes.projections + passes.head_gradients
    )


def predicted_ratio(
    name: str, backbone: float, head: float, gradient_checkpointing: bool, data: str = "tokens"
) -> float:
    """Predicts a variant's step time over that of `sft`, from [`step_units`]."""

    def units(variant: StepVariant) -> float:
        # Of prompts, hf_ckt projects the answers' half; TRL's head projects every position where there is no Triton.
        kept = 0.5 if data == "prompts" and variant.trainer == "hf_ckt" else 1.0
        return step_units(step_passes(variant), backbone, kept * head, gradient_checkpointing)

    return units(STEP_VARIANTS[name]) / units(STEP_VARIANTS[BASELINE])


# Variant, against which, and at most what ratio of step time and of peak memory.
_ON_CPU = (
    ("hf_ckt_distillation", BASELINE, 1.40, 1.08),
    ("hf_ckt_model_teacher", "gkd", 0.80, 0.75),
    ("hf_ckt_all", BASELINE, 2.35, 1.75),
    ("hf_ckt_all_recomputed", BASELINE, 2.75, 1.15),
)
_ON_GPU = (("hf_ckt_all", BASELINE, 2.5, 1.25),)
_STEP_TARGETS = {
    StepCase(): _ON_CPU,
    StepCase("random-8b", 4, 2048, "nf4", gradient_checkpointing=True): _ON_GPU,
}


def step_targets(case: StepCase) -> list[tuple[str, str, float | None, float | None]]:
    """
    Returns which ratios a case reports: variant, against which, at most what time and what memory.

    A case that no target was set for reports the same ratios without one; one of prompts, those of the perturbations.
    """
    if case.data == "prompts":
        return [(name, BASELINE, None, None) for name in NOISE_VARIANTS]
    rows = _STEP_TARGETS.get(case)
    return [*rows] if rows is not None else [(of, to, None, None) for of, to, _, _ in _ON_CPU]
