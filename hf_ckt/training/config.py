# SPDX-License-Identifier: Apache-2.0
"""Configuration of [`ContrastiveRobustTrainer`]."""

import logging
from dataclasses import dataclass, fields
from typing import Any

from transformers import TrainingArguments
from trl import SFTConfig

from ..checks import require_count, require_known, require_weight, require_within
from ..data.row_marks import require_row_rules
from ..discovery import load_part, names_for_role, part_settings
from ..losses.base import ParameterLoss
from ..objective.objective import ROLES
from ..objective.schedules import SCHEDULES, Schedule
from .contrast_config import ContrastConfig
from .grouping import GroupConfig
from .noise_config import PerturbationConfig, build_part, known_settings, setting
from .token_weights_config import TokenWeightsConfig

logger = logging.getLogger(__name__)

# What a weight of None becomes when the run has what the term needs. Distillation at the weight of the task (Hinton et
# al. 2015 add both at comparable size); consistency at half of it; the contrastive term, whose gradient is that of a
# softmax at temperature 0.1, at a tenth; the penalty on adapters small enough to bind only a drifting adapter. Judgement,
# not the outcome of a study: they were first tried in what is now the first row of examples/boundary/boundary_ablation.py.
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


def _weight(role: str, what: str, default: float | None = None) -> Any:
    recommended = RECOMMENDED_WEIGHTS[role]
    none = "" if default is not None else f" None: {recommended:g} when the run has what the term needs, else off."
    return setting(f"Weight of {what}, 0 or more; 0 switches it off.{none}", default)


def _schedule(role: str) -> Any:
    return setting(
        f"How {role}_weight moves with training progress: 'constant'; 'linear' or 'cosine' from it to "
        f"{role}_weight_end; 'warmup' from 0 to it over the first schedule_warmup_ratio of training.",
        "constant",
        choices=list(SCHEDULES),
    )


def _end(role: str) -> Any:
    return setting(f"Weight that a 'linear' or 'cosine' {role}_schedule reaches at the end of training.", 0.0)


def _loss(role: str, default: str) -> Any:
    return setting(f"Loss of the {role} role, by name: {', '.join(names_for_role(role))}.", default)


@dataclass
class ContrastiveRobustConfig(ContrastConfig, TokenWeightsConfig, PerturbationConfig, GroupConfig, SFTConfig):
    """
    Configuration of [`ContrastiveRobustTrainer`]: everything of [`~trl.SFTConfig`], with its defaults, and the
    objective.

    Five roles (`task`, `distillation`, `contrastive`, `consistency`, `regularization`) each have a weight, a schedule
    and, but for `task` whose switch stays `loss_type`, a loss; `<role>_<setting>` sets a setting of that loss, and
    `None` keeps the loss's own default (`hf-ckt parts` lists them). Each field is explained in its help text.
    """

    _VALID_DICT_FIELDS = [
        *SFTConfig._VALID_DICT_FIELDS,
        *PerturbationConfig.dict_fields,
        *TokenWeightsConfig.dict_fields,
        *("teacher_model_init_kwargs", "teacher_token_map", "role_rows", "loss_settings"),
    ]

    task_weight: float = _weight("task", "the task loss (loss_type: nll or dft)", 1.0)
    task_schedule: str = _schedule("task")
    task_weight_end: float = _end("task")
    label_trust: bool = setting(
        "Whether each token's task loss is weighed by the teacher's probability of it (trusted_nll), for data of which a "
        "part of the answers is wrong. Needs a teacher that is better than the data, and loss_type='nll'.",
        False,
    )
    label_trust_threshold: float | None = setting(
        "With label_trust: a token counts in full if the teacher gives it at least this probability, in (0, 1), and not "
        "at all otherwise. None: it counts by its probability."
    )

    distillation_loss: str = _loss("distillation", "forward_kl")
    distillation_weight: float | None = _weight("distillation", "distillation from the teacher's distribution")
    distillation_schedule: str = _schedule("distillation")
    distillation_weight_end: float = _end("distillation")
    distillation_temperature: float | None = setting(
        "Temperature of the distillation loss, > 0. None: its default, 1."
    )
    distillation_alpha: float | None = setting(
        "Mixture share of the skew losses, in [0, 1). None: their default, 0.1."
    )
    distillation_beta: float | None = setting("Teacher's share in jensen_shannon, in (0, 1). None: its default, 0.5.")

    contrastive_loss: str = _loss("contrastive", "info_nce")
    contrastive_weight: float | None = _weight(
        "contrastive", "contrastive distillation between positions or sequences"
    )
    contrastive_schedule: str = _schedule("contrastive")
    contrastive_weight_end: float = _end("contrastive")

    consistency_loss: str = _loss("consistency", "consistency_kl")
    consistency_weight: float | None = _weight("consistency", "consistency between the clean and the perturbed input")
    consistency_schedule: str = _schedule("consistency")
    consistency_weight_end: float = _end("consistency")
    consistency_temperature: float | None = setting("Temperature of the consistency loss, > 0. None: its default, 1.")
    consistency_beta: float | None = setting(
        "Clean view's share in jensen_shannon, in (0, 1). None: its default, 0.5."
    )
    consistency_target: str = setting(
        "What the noisy prediction is compared with: 'student' (its own clean prediction) or 'teacher' (the teacher's "
        "clean prediction: robust distillation).",
        "student",
        choices=list(CONSISTENCY_TARGETS),
    )
    regularization_loss: str = _loss("regularization", "adapter_l2")
    regularization_weight: float | None = _weight("regularization", "the pull towards the frozen base")
    regularization_schedule: str = _schedule("regularization")
    regularization_weight_end: float = _end("regularization")
    regularization_temperature: float | None = setting("Temperature of reference_kl, > 0. None: its default, 1.")

    role_rows: dict[str, Any] | str | None = setting(
        "Rows that a role counts on, by role: a column of the dataset to a value or a list of values, e.g. "
        "{'regularization': {'teacher': 'base'}, 'task': {'source': ['human', 'expert']}}. None, and a "
        "role that is not named: every row counts. What is divided by stays the number of all tokens."
    )
    schedule_warmup_ratio: float = setting("Share of training that 'warmup' schedules take, in (0, 1].", 0.1)
    loss_settings: dict[str, Any] | str | None = setting(
        "Settings of losses that have no field here, by role, e.g. {'distillation': {'gamma': 2.0}}: for losses added "
        "to the package later.",
    )
    objective_chunk_size: int | None = setting(
        "Kept positions projected through the head at a time. None: as many as fit 80 MiB of float32 logits on CPU, at "
        "most 128, and 256 MiB on an accelerator. Lower to save memory."
    )
    objective_compile: bool | None = setting(
        "Whether the losses and their gradient on a tile run through torch.compile. None: when the run is long enough to "
        "repay a cold compile, by the tokens of its first batch."
    )
    nonfinite_loss: str = setting(
        "What happens when a loss is NaN or infinite: 'raise' before the optimizer step, or 'skip' that step.",
        "raise",
        choices=list(NONFINITE_ACTIONS),
    )
    grouped_log_names: bool = setting(
        "Whether trackers (report_to) get the terms as objective/..., what compares with the teacher as teacher/... and what the "
        "noisy view did as noise/..., behind their own train/ or eval/. The trainer's own log keeps the plain names.",
        False,
    )
    teacher_model_init_kwargs: dict[str, Any] | str | None = setting(
        "Keyword arguments for loading a teacher given by name, as model_init_kwargs for the student; dtype as a string."
    )
    teacher_system_prompt: str | None = setting(
        "System message that the teacher alone reads. None: none; a column teacher_prompt replaces a row's whole prompt."
    )
    teacher_cache: str | None = setting(
        "Folder that `hf-ckt cache-teacher` wrote, read in place of the teachers, none of which is loaded. None: they run."
    )
    teacher_token_map: dict[str, Any] | str | None = setting(
        "What the teacher reads in place of tokens that it does not have (those of a cloned chat template, say), from a "
        "token or id of the student's to one that both have, e.g. {'<|im_end|>': '</s>'}. None: data with such a token "
        "raises before training."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_objective()

    @classmethod
    def from_arguments(cls, args: TrainingArguments, *, teacher_given: bool = False) -> "ContrastiveRobustConfig":
        """
        Converts a plain `TrainingArguments` or `SFTConfig`, with every extra weight at 0; a config of this class is
        returned as it is.

        Args:
            args (`TrainingArguments`):
                What SFTTrainer would take.
            teacher_given (`bool`, *optional*, defaults to `False`):
                The trainer was given a teacher.

        Raises:
            ValueError: If there is a teacher that no term would read.
        """
        if isinstance(args, cls):
            return args
        kind = type(args).__name__
        if teacher_given:
            raise ValueError(
                f"teacher_model: args is a plain {kind}, with which every extra weight is 0, so the teacher would teach "
                "nothing. Use ContrastiveRobustConfig in its place, or leave teacher_model out."
            )
        if not isinstance(args, SFTConfig):
            # Not through to_dict, which masks every field named *_token.
            known = SFTConfig.__dataclass_fields__
            names = [one.name for one in fields(args) if one.init and one.name in known]
            args = SFTConfig(**{name: getattr(args, name) for name in names})
        converted = cls.__new__(cls)
        # Attribute by attribute and not through __init__, which would lose what was set on the object, fields or not.
        own = {one.name: one.default for one in fields(cls) if one.name not in SFTConfig.__dataclass_fields__}
        vars(converted).update(own | vars(args) | {f"{role}_weight": 0.0 for role in EXTRA_ROLES})
        logger.warning(
            "args is a plain %s: this run is SFTTrainer's, with every extra weight at 0. ContrastiveRobustConfig in its "
            "place turns on the terms, each by its weight (%s).",
            kind,
            ", ".join(f"{role}_weight" for role in EXTRA_ROLES),
        )
        return converted

    def __getstate__(self) -> dict[str, Any]:
        # Trainer pickles its arguments beside the weights, and uploads that file as training goes on: a token in it would be
        # public. A copy made by `copy` lacks it too, and takes the one that this machine is logged in with.
        return {**self.__dict__, "hub_token": None}

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
        self._check_perturbation()
        self._check_token_weights()
        self._check_contrast()
        require_known("consistency_target", self.consistency_target, CONSISTENCY_TARGETS)
        require_known("nonfinite_loss", self.nonfinite_loss, NONFINITE_ACTIONS)
        if self.objective_chunk_size is not None:
            require_count("objective_chunk_size", self.objective_chunk_size, 1, "A tile holds at least one position.")
        if isinstance(self.loss_settings, dict):
            for role in self.loss_settings:
                require_known("loss_settings", role, EXTRA_ROLES)
        if self.label_trust and self.loss_type != "nll":
            raise ValueError(
                f"label_trust=True: loss_type={self.loss_type!r} weighs tokens already, by the student's confidence, and "
                "the two would be multiplied. Use loss_type='nll' or label_trust=False."
            )
        if self.label_trust_threshold is not None and not self.label_trust:
            raise ValueError(
                "label_trust_threshold: would be ignored without label_trust=True. Set it, or leave this."
            )
        if isinstance(self.role_rows, dict):
            penalty = isinstance(self.build_loss("regularization"), ParameterLoss)
            require_row_rules(self.role_rows, ROLES, {"regularization": self.regularization_loss} if penalty else {})
        # Built once here only to raise where a value is set rather than when training starts.
        for role in EXTRA_ROLES if not self.label_trust else ROLES:
            self.build_loss(role)

    def build_loss(self, role: str) -> Any:
        """
        Builds a role's loss from its fields.

        Raises:
            ValueError: If the loss is unknown, cannot serve the role, or has no setting that a field sets.
        """
        if role == "task" and self.label_trust:
            threshold = {"threshold": self.label_trust_threshold}
            return build_part("label_trust_", load_part("losses", "trusted_nll"), threshold)
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
        settings = known_settings(role, name, cls, {**given, **extra})
        if "role" in getattr(cls, "__dataclass_fields__", {}):
            robust = role == "consistency" and self.consistency_target == "teacher"
            settings["role"] = "robust_consistency" if robust else role
        return build_part(f"{role}_", cls, settings)

    def build_schedule(self, role: str, weight: float) -> Schedule:
        """Builds a role's schedule for a resolved weight."""
        return Schedule(
            weight, getattr(self, f"{role}_schedule"), getattr(self, f"{role}_weight_end"), self.schedule_warmup_ratio
        )

    def may_be_on(self, role: str) -> bool:
        """Whether a role's weight is above 0 at some time, as far as can be told before the run is known."""
        weight = getattr(self, f"{role}_weight")
        return weight is None or self.build_schedule(role, weight).ever_on


def _loss_settings(role: str) -> set[str]:
    """Settings that some loss of the role has."""
    return {setting for name in names_for_role(role) for setting in part_settings(load_part("losses", name))}
