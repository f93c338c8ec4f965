# SPDX-License-Identifier: Apache-2.0
"""Configuration of [`ContrastiveRobustTrainer`]."""

from dataclasses import dataclass, field, fields
from typing import Any

from transformers import TrainingArguments
from trl import SFTConfig

from .candidates import LEVELS, Contrast, TeacherQueue
from .checks import nearest, require_candidates, require_count, require_known, require_weight, require_within
from .discovery import load_part, names_for_role, part_names, part_settings
from .objective import ROLES
from .perturbations.base import EmbeddingNoise
from .schedules import SCHEDULES, Schedule

# What a weight of None becomes when the run has what the term needs. Distillation at the weight of the task (Hinton et
# al. 2015 add both at comparable size); consistency at half of it; the contrastive term, whose gradient is that of a
# softmax at temperature 0.1, at a tenth; the penalty on adapters small enough to bind only a drifting adapter. Judgement,
# not yet the outcome of a study: examples/quickstart.py is the run they were first tried in.
RECOMMENDED_WEIGHTS = {
    "task": 1.0,
    "distillation": 1.0,
    "contrastive": 0.1,
    "consistency": 0.5,
    "regularization": 1e-4,
}
EXTRA_ROLES = tuple(role for role in ROLES if role != "task")
CONSISTENCY_TARGETS = ("student", "teacher")
NONFINITE_ACTIONS = ("raise", "skip")


def _setting(help: str, default: Any = None, **kwargs: Any) -> Any:
    # argparse expands %, so a literal one would break --help
    return field(default=default, metadata={"help": help.replace("%", "%%"), **kwargs})


def _weight(role: str, what: str, default: float | None = None) -> Any:
    recommended = RECOMMENDED_WEIGHTS[role]
    none = "" if default is not None else f" None: {recommended:g} when the run has what the term needs, else off."
    return _setting(f"Weight of {what}, 0 or more; 0 switches it off.{none}", default)


def _schedule(role: str) -> Any:
    return _setting(
        f"How {role}_weight moves with training progress: 'constant'; 'linear' or 'cosine' from it to "
        f"{role}_weight_end; 'warmup' from 0 to it over the first schedule_warmup_ratio of training.",
        "constant",
        choices=list(SCHEDULES),
    )


def _end(role: str) -> Any:
    return _setting(f"Weight that a 'linear' or 'cosine' {role}_schedule reaches at the end of training.", 0.0)


def _loss(role: str, default: str) -> Any:
    return _setting(f"Loss of the {role} role, by name: {', '.join(names_for_role(role))}.", default)


@dataclass
class ContrastiveRobustConfig(SFTConfig):
    """
    Configuration of [`ContrastiveRobustTrainer`]: everything of [`~trl.SFTConfig`], with its defaults, and the
    objective.

    Five roles (`task`, `distillation`, `contrastive`, `consistency`, `regularization`) each have a weight, a schedule
    and, but for `task` whose switch stays `loss_type`, a loss; `<role>_<setting>` sets a setting of that loss, and
    `None` keeps the loss's own default (`hf-ckt parts` lists them). Each field is explained in its help text.
    """

    _VALID_DICT_FIELDS = [*SFTConfig._VALID_DICT_FIELDS, "teacher_model_init_kwargs", "loss_settings"]

    task_weight: float = _weight("task", "the task loss (loss_type: nll or dft)", 1.0)
    task_schedule: str = _schedule("task")
    task_weight_end: float = _end("task")

    distillation_loss: str = _loss("distillation", "forward_kl")
    distillation_weight: float | None = _weight("distillation", "distillation from the teacher's distribution")
    distillation_schedule: str = _schedule("distillation")
    distillation_weight_end: float = _end("distillation")
    distillation_temperature: float | None = _setting(
        "Temperature of the distillation loss, > 0. None: its default, 1."
    )
    distillation_alpha: float | None = _setting(
        "Mixture share of the skew losses, in [0, 1). None: their default, 0.1."
    )
    distillation_beta: float | None = _setting("Teacher's share in jensen_shannon, in (0, 1). None: its default, 0.5.")

    contrastive_loss: str = _loss("contrastive", "info_nce")
    contrastive_weight: float | None = _weight(
        "contrastive", "contrastive distillation between positions or sequences"
    )
    contrastive_schedule: str = _schedule("contrastive")
    contrastive_weight_end: float = _end("contrastive")
    contrastive_temperature: float | None = _setting(
        "Temperature of the softmax over candidates, > 0; lower looks only at the hardest. None: its default, 0.1."
    )
    contrastive_false_negative_threshold: float | None = _setting(
        "info_nce: a candidate whose teacher-teacher cosine exceeds it is no negative, in (-1, 1]; 1 keeps all. None: "
        "its default, 0.95."
    )
    contrastive_level: str = _setting(
        "What is contrasted: 'token' (kept positions) or 'sequence' (mean over a document's kept positions; needs at "
        "least two documents in a batch).",
        "token",
        choices=list(LEVELS),
    )
    contrastive_max_anchors: int = _setting(
        "At most this many positions of a batch are contrasted, evenly spaced: the cost grows with its square. 1024 "
        "keeps the similarities at 4 MB.",
        1024,
    )
    contrastive_queue_size: int = _setting(
        "Past teacher states kept as further negatives; 4096 of them cost 4096 times the teacher's hidden width. 0: none.",
        0,
    )
    contrastive_rejected: bool = _setting(
        "Whether the teacher's reading of each example's `rejected` completion is a hard negative. Needs the columns "
        "prompt, chosen (or completion) and rejected, and no packing.",
        False,
    )

    consistency_loss: str = _loss("consistency", "consistency_kl")
    consistency_weight: float | None = _weight("consistency", "consistency between the clean and the perturbed input")
    consistency_schedule: str = _schedule("consistency")
    consistency_weight_end: float = _end("consistency")
    consistency_temperature: float | None = _setting("Temperature of the consistency loss, > 0. None: its default, 1.")
    consistency_beta: float | None = _setting(
        "Clean view's share in jensen_shannon, in (0, 1). None: its default, 0.5."
    )
    consistency_target: str = _setting(
        "What the noisy prediction is compared with: 'student' (its own clean prediction) or 'teacher' (the teacher's "
        "clean prediction: robust distillation).",
        "student",
        choices=list(CONSISTENCY_TARGETS),
    )
    perturbation: str = _setting(
        f"What makes the noisy view, by name: {', '.join(part_names('perturbations'))}.", "gaussian"
    )
    perturbation_severity: float | None = _setting("Strength of the perturbation, in [0, 1]. None: its default, 1.")
    perturbation_alpha: float | None = _setting(
        "Noise strength of embedding noise, > 0: alpha / sqrt(tokens * width). None: its default, NEFTune's 5."
    )

    consistency_fraction: float = _setting(
        "Probability that a row of a batch is perturbed, in (0, 1]: below 1 the noisy pass and its projections run for "
        "those alone, and the term is divided by it, so that consistency_weight keeps its meaning. A packed or "
        "padding-free row is perturbed as a whole or not at all.",
        1.0,
    )
    noisy_view_recompute: bool = _setting(
        "Whether the noisy pass keeps nothing for the backward and is run again there: one more pass of the backbone "
        "on the noisy input, for a peak of memory near that of SFTTrainer. Not with use_reentrant=True, DeepSpeed ZeRO-3 "
        "or layers on several devices.",
        False,
    )
    noisy_view_batched: bool = _setting(
        "Whether the clean and the noisy input go through the backbone as one batch of twice the size instead of one "
        "after the other. Try it where a batch is too small to fill a GPU; on CPUs no difference in time was measured "
        "(examples/benchmarks). Not with padding-free batches, a mixture of experts' auxiliary loss, or "
        "noisy_view_recompute.",
        False,
    )

    regularization_loss: str = _loss("regularization", "adapter_l2")
    regularization_weight: float | None = _weight("regularization", "the pull towards the frozen base")
    regularization_schedule: str = _schedule("regularization")
    regularization_weight_end: float = _end("regularization")
    regularization_temperature: float | None = _setting("Temperature of reference_kl, > 0. None: its default, 1.")

    schedule_warmup_ratio: float = _setting("Share of training that 'warmup' schedules take, in (0, 1].", 0.1)
    loss_settings: dict[str, Any] | str | None = _setting(
        "Settings of losses that have no field here, by role, e.g. {'distillation': {'gamma': 2.0}}: for losses added "
        "to the package later.",
    )
    objective_chunk_size: int | None = _setting(
        "Kept positions projected through the head at a time. None: as many as fit 80 MiB of float32 logits on CPU, at "
        "most 128, and 256 MiB on an accelerator. Lower to save memory."
    )
    objective_compile: bool | None = _setting(
        "Whether the losses and their gradient on a tile run through torch.compile. None: when the run is long enough to "
        "repay a cold compile, by the tokens of its first batch."
    )
    nonfinite_loss: str = _setting(
        "What happens when a loss is NaN or infinite: 'raise' before the optimizer step, or 'skip' that step.",
        "raise",
        choices=list(NONFINITE_ACTIONS),
    )
    teacher_model_init_kwargs: dict[str, Any] | str | None = _setting(
        "Keyword arguments for loading a teacher given by name, as model_init_kwargs for the student. dtype must be a "
        "string."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_objective()

    @classmethod
    def from_arguments(cls, args: TrainingArguments) -> "ContrastiveRobustConfig":
        """Converts a plain `TrainingArguments` or `SFTConfig`; a config of this class is returned as it is."""
        if isinstance(args, cls):
            return args
        # Not through to_dict, which masks every field named *_token and rewrites the user's model_init_kwargs in place.
        names = [one.name for one in fields(args) if one.init and one.name in cls.__dataclass_fields__]
        return cls(**{name: getattr(args, name) for name in names})

    def _check_objective(self) -> None:
        for role in ROLES:
            weight = getattr(self, f"{role}_weight")
            if weight is not None:
                require_weight(f"{role}_weight", weight)
            require_weight(f"{role}_weight_end", getattr(self, f"{role}_weight_end"))
            require_known(f"{role}_schedule", getattr(self, f"{role}_schedule"), SCHEDULES)
        require_within(
            "schedule_warmup_ratio", self.schedule_warmup_ratio, 0, 1, "It is a share of training.", open_low=True
        )
        require_within(
            "consistency_fraction",
            self.consistency_fraction,
            0,
            1,
            "It is a probability, and the term is divided by it. Use consistency_weight=0 for no noisy view.",
            open_low=True,
        )
        if self.noisy_view_recompute and self.noisy_view_batched:
            raise ValueError(
                "noisy_view_recompute: cannot be combined with noisy_view_batched, whose one pass holds the clean view's "
                "activations too, so nothing would be saved. Set one of the two."
            )
        require_known("contrastive_level", self.contrastive_level, LEVELS)
        require_known("consistency_target", self.consistency_target, CONSISTENCY_TARGETS)
        require_known("nonfinite_loss", self.nonfinite_loss, NONFINITE_ACTIONS)
        require_count(
            "contrastive_max_anchors", self.contrastive_max_anchors, 2, "One anchor has nothing to contrast."
        )
        require_count("contrastive_queue_size", self.contrastive_queue_size, 0, "It is a number of states.")
        if self.objective_chunk_size is not None:
            require_count("objective_chunk_size", self.objective_chunk_size, 1, "A tile holds at least one position.")
        if isinstance(self.loss_settings, dict):
            for role in self.loss_settings:
                require_known("loss_settings", role, EXTRA_ROLES)
        # Built once here only to raise where a value is set rather than when training starts.
        for role in EXTRA_ROLES:
            self.build_loss(role)
        self.build_perturbation()
        for packing in ("packing", "eval_packing"):
            if self.contrastive_rejected and getattr(self, packing):
                raise ValueError(
                    f"contrastive_rejected: cannot be combined with packing, which would separate an answer from its "
                    f"rejected counterpart. Set {packing}=False or contrastive_rejected=False."
                )
        if self.contrastive_level == "sequence" and self.packing and self.packing_strategy == "wrapped":
            raise ValueError(
                "contrastive_level='sequence': packing_strategy='wrapped' cuts documents and leaves no boundaries, so "
                "unrelated texts would be averaged. Use packing_strategy='bfd' or contrastive_level='token'."
            )

    def build_loss(self, role: str) -> Any:
        """
        Builds a role's loss from its fields.

        Raises:
            ValueError: If the loss is unknown, cannot serve the role, or has no setting that a field sets.
        """
        if role == "task":
            return load_part("losses", self.loss_type)()
        name = getattr(self, f"{role}_loss")
        require_known(f"{role}_loss", name, names_for_role(role))
        cls = load_part("losses", name)
        given = {
            field_.name.removeprefix(f"{role}_"): getattr(self, field_.name)
            for field_ in fields(self)
            if field_.name.startswith(f"{role}_") and field_.name.removeprefix(f"{role}_") in _loss_settings(role)
        }
        given = {setting: value for setting, value in given.items() if value is not None}
        extra = self.loss_settings.get(role, {}) if isinstance(self.loss_settings, dict) else {}
        settings = self._known_settings(role, name, cls, {**given, **extra})
        if "role" in getattr(cls, "__dataclass_fields__", {}):
            robust = role == "consistency" and self.consistency_target == "teacher"
            settings["role"] = "robust_consistency" if robust else role
        return _build(f"{role}_", cls, settings)

    def build_perturbation(self) -> EmbeddingNoise:
        """Builds the perturbation from its fields; raises as [`build_loss`] does."""
        require_known("perturbation", self.perturbation, part_names("perturbations"))
        cls = load_part("perturbations", self.perturbation)
        given = {"severity": self.perturbation_severity, "alpha": self.perturbation_alpha}
        given = {setting: value for setting, value in given.items() if value is not None}
        return _build("perturbation_", cls, self._known_settings("perturbation", self.perturbation, cls, given))

    def build_schedule(self, role: str, weight: float) -> Schedule:
        """Builds a role's schedule for a resolved weight."""
        return Schedule(
            weight, getattr(self, f"{role}_schedule"), getattr(self, f"{role}_weight_end"), self.schedule_warmup_ratio
        )

    def build_contrast(self, vocab_size: int | None) -> Contrast:
        """Builds what the contrastive role needs beside its loss."""
        queue = TeacherQueue(self.contrastive_queue_size)
        return Contrast(self.contrastive_level, self.contrastive_max_anchors, queue, vocab_size)

    def require_sequences(self) -> None:
        """Raises ValueError when a batch cannot hold the two sequences that sequence-level contrast compares."""
        require_candidates(
            self.contrastive_loss,
            "sequences",
            self.per_device_train_batch_size,
            'Raise per_device_train_batch_size or use contrastive_level="token".',
        )

    @staticmethod
    def _known_settings(prefix: str, name: str, cls: type, given: dict[str, Any]) -> dict[str, Any]:
        known = part_settings(cls)
        for setting in given:
            if setting not in known:
                raise ValueError(
                    f"{prefix}_{setting}: {name} has no setting {setting!r}, so the value would be ignored."
                    f"{nearest(setting, known)} It has: {', '.join(known) or 'none'}."
                )
        return given


def _loss_settings(role: str) -> set[str]:
    """Settings that some loss of the role has."""
    return {setting for name in names_for_role(role) for setting in part_settings(load_part("losses", name))}


def _build(prefix: str, cls: type, settings: dict[str, Any]) -> Any:
    try:
        return cls(**settings)
    except (TypeError, ValueError) as error:
        # The part names its own setting; the user set a field.
        raise type(error)(f"{prefix}{error}") from error
