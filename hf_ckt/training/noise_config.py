# SPDX-License-Identifier: Apache-2.0
"""The fields of [`ContrastiveRobustConfig`] that say what the noisy view is, and how parts are built from fields."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from ..checks import nearest, require_count, require_known, require_positive, require_within
from ..discovery import load_part, part_names, part_settings
from ..noise.mixture import Mixture
from ..objective.budget import ConsistencyBudget
from ..objective.schedules import SCHEDULES, Schedule

_NAMES = ", ".join(part_names("perturbations"))


def setting(help: str, default: Any = None, **kwargs: Any) -> Any:
    """A field of a configuration with its help text."""
    # argparse expands %, so a literal one would break --help
    return field(default=default, metadata={"help": help.replace("%", "%%"), **kwargs})


@dataclass
class PerturbationConfig:
    """What perturbs the input, how often, how strongly, and how the passes over it are run."""

    dict_fields: ClassVar[tuple[str, ...]] = ("perturbation", "perturbation_settings")

    perturbation: dict[str, Any] | str | None = setting(
        f"What makes the noisy view, by name: {_NAMES}. Or several with probabilities that add up to 1, of which each "
        "text draws one: {'typos': 0.5, 'gaussian': 0.5}. Those of text and ids change prompts and need data of which "
        "only the answers are trained on. None: gaussian.",
        "gaussian",
    )
    perturbation_severity: float | None = setting(
        "Strength of the perturbation, in [0, 1]: the share of letters, words, tokens or of the noise's norm that it "
        "affects. None: its default, 0.1 for text and ids, 1 for wrapper and embeddings."
    )
    perturbation_severity_schedule: str = setting(
        "How the severity moves with training progress: 'constant'; 'linear' or 'cosine' from it to "
        "perturbation_severity_end; 'warmup' from 0 to it over the first schedule_warmup_ratio of training.",
        "constant",
        choices=list(SCHEDULES),
    )
    perturbation_severity_end: float = setting(
        "Severity that a 'linear' or 'cosine' perturbation_severity_schedule reaches at the end of training, in [0, 1].",
        0.0,
    )
    perturbation_alpha: float | None = setting(
        "Noise strength on embeddings, > 0: the norm of a text's whole noise. None: its default, NEFTune's 5. For "
        "adversarial noise start at 1."
    )
    perturbation_steps: int | None = setting(
        "Steps of the search in adversarial and virtual_adversarial, at least 1; each costs about a pass forward and "
        "back. None: their default, 1."
    )
    perturbation_norm: str | None = setting(
        "Ball that adversarial noise stays in: 'l2' or 'linf'. None: its default, l2."
    )
    perturbation_settings: dict[str, Any] | str | None = setting(
        "Settings by perturbation, e.g. {'typos': {'severity': 0.2}, 'adversarial': {'step_size': 0.5}}: for mixtures, "
        "and for settings that have no field here. None: each keeps its own."
    )
    perturbation_warm_start: bool = setting(
        "Whether adversarial and virtual_adversarial begin at the noise of the step before, by position, instead of at "
        "random. The noise then depends on how batches are split.",
        False,
    )

    consistency_fraction: float = setting(
        "Probability that a row of a batch is perturbed, in (0, 1]: below 1 the noisy pass and its projections run for "
        "those alone, and the term is divided by it, so that consistency_weight keeps its meaning. A packed or "
        "padding-free row is perturbed as a whole or not at all.",
        1.0,
    )
    consistency_every: int = setting(
        "The noisy view is computed in one of this many optimizer steps, 1 or more, and the term multiplied by it there, "
        "so that consistency_weight keeps its meaning.",
        1,
    )
    consistency_budget: float | None = setting(
        "Divergence between the clean and the noisy prediction that is allowed, nats per token, > 0. The consistency "
        "weight then moves: up while the divergence exceeds it, down to 0 while it does not; consistency_weight is where "
        "it starts. None: the weight is fixed."
    )
    consistency_budget_rate: float = setting(
        "Most that the weight moves in a step, > 0: up where the divergence is twice the budget or more, down where it is "
        "0, in proportion between. Lower it if weight and divergence swing against each other, raise it if the budget is "
        "reached too late.",
        0.05,
    )
    consistency_budget_maximum: float = setting(
        "Largest weight that a consistency_budget may lead to, > 0 and at least consistency_weight: where the budget "
        "cannot be kept, the other terms go on counting.",
        10.0,
    )

    noisy_view_recompute: bool = setting(
        "Whether the noisy pass keeps nothing for the backward and is run again there: one more pass of the backbone "
        "on the noisy input, for a peak of memory near that of SFTTrainer. Not with use_reentrant=True, DeepSpeed ZeRO-3, "
        "layers on several devices, or adversarial noise.",
        False,
    )
    noisy_view_batched: bool = setting(
        "Whether the clean and the noisy input go through the backbone as one batch of twice the size instead of one "
        "after the other. Try it where a batch is too small to fill a GPU; on CPUs no difference in time was measured "
        "(examples/benchmarks). Not with padding-free batches, a mixture of experts' auxiliary loss, "
        "noisy_view_recompute, adversarial noise, or perturbations of text and ids.",
        False,
    )

    @property
    def perturbation_names(self) -> dict[str, float]:
        """Name to probability of each perturbation."""
        given = self.perturbation or "gaussian"
        return {given: 1.0} if isinstance(given, str) else dict(given)

    def perturbs(self, *stages: str) -> bool:
        """Whether some perturbation works on one of the stages."""
        return any(_ask(name, "stage") in stages for name in self.perturbation_names)

    @property
    def perturbation_searches(self) -> bool:
        """Whether some perturbation asks the model for gradients."""
        return any(_ask(name, "searches") for name in self.perturbation_names)

    def build_mixture(self) -> Mixture:
        """
        Builds the perturbations from their fields.

        Raises:
            ValueError: If a name is unknown, probabilities do not add up to 1, or a setting belongs to no part.
        """
        shares = self.perturbation_names
        known = part_names("perturbations")
        for name, share in shares.items():
            require_known("perturbation", name, known)
            require_positive(f"perturbation[{name!r}]", share, "Leave it out if it is never to be drawn.")
        if abs(sum(shares.values()) - 1) > 1e-6:
            raise ValueError(
                f"perturbation: the probabilities add up to {sum(shares.values()):g}, not to 1, so it is unclear what the "
                "rest of the texts should get. Divide each by their sum."
            )
        own = self.perturbation_settings if isinstance(self.perturbation_settings, dict) else {}
        for name in own:
            require_known("perturbation_settings", name, shares)
        classes = {name: load_part("perturbations", name) for name in shares}
        fields = ("severity", "alpha", "steps", "norm")
        given = {one: getattr(self, f"perturbation_{one}") for one in fields}
        given = {one: value for one, value in given.items() if value is not None}
        # With one perturbation it has to have what is set; in a mixture, some have to.
        everywhere = {one for cls in classes.values() for one in part_settings(cls)}
        known_settings("perturbation", " and ".join(shares), everywhere, given)
        parts, severities = {}, {}
        for name, cls in classes.items():
            settings = {one: value for one, value in given.items() if one in part_settings(cls)}
            settings |= known_settings("perturbation_settings", name, cls, own.get(name, {}))
            parts[name] = build_part("perturbation_", cls, settings)
            if self.perturbation_severity_schedule != "constant":
                severities[name] = Schedule(
                    parts[name].severity,
                    self.perturbation_severity_schedule,
                    self.perturbation_severity_end,
                    self.schedule_warmup_ratio,  # type: ignore[attr-defined]  # of the configuration this is part of
                )
        return Mixture(parts, shares, severities)

    def build_budget(self, accelerator: Any, weight: float) -> ConsistencyBudget:
        """Builds the multiplier that takes the place of a consistency weight, which it starts at."""
        assert self.consistency_budget is not None
        if weight > self.consistency_budget_maximum:
            raise ValueError(
                f"consistency_budget_maximum: is {self.consistency_budget_maximum:g}, less than the weight of {weight:g} "
                "that the budget starts at. Raise it, or lower consistency_weight."
            )
        rate, maximum = self.consistency_budget_rate, self.consistency_budget_maximum
        return ConsistencyBudget(accelerator, self.consistency_budget, rate, weight, maximum)

    def _check_perturbation(self) -> None:
        own: Any = self
        require_known("perturbation_severity_schedule", self.perturbation_severity_schedule, SCHEDULES)
        require_within("perturbation_severity_end", self.perturbation_severity_end, 0, 1, "It is a share.")
        require_within(
            "consistency_fraction",
            self.consistency_fraction,
            0,
            1,
            "It is a probability, and the term is divided by it. Use consistency_weight=0 for no noisy view.",
            open_low=True,
        )
        require_count(
            "consistency_every", self.consistency_every, 1, "Use consistency_weight=0 for no noisy view at all."
        )
        self.build_mixture()
        if self.consistency_budget is not None:
            require_positive(
                "consistency_budget", self.consistency_budget, "No model under noise keeps its prediction exactly."
            )
            if own.consistency_weight == 0 or own.consistency_schedule != "constant":
                raise ValueError(
                    "consistency_budget: moves the consistency weight by itself, so a schedule would be ignored and a "
                    "weight of 0 switches the noisy view off. Set consistency_schedule='constant' and "
                    "consistency_weight=None or above 0."
                )
        require_positive("consistency_budget_rate", self.consistency_budget_rate, "The weight would not move.")
        require_positive("consistency_budget_maximum", self.consistency_budget_maximum, "The weight would stay at 0.")
        changes_prompts, searches = self.perturbs("text", "ids"), self.perturbation_searches
        for option in ("noisy_view_batched", "noisy_view_recompute"):
            if getattr(self, option) and searches:
                raise ValueError(
                    f"{option}: cannot be combined with {', '.join(self.perturbation_names)}: its search compares with the "
                    f"clean view, which has to come first and stay. Set {option}=False."
                )
        if self.noisy_view_batched and changes_prompts:
            raise ValueError(
                "noisy_view_batched: perturbations of text and ids change a prompt's length, so the two views do not "
                "line up in one batch. Set noisy_view_batched=False."
            )
        if self.noisy_view_recompute and self.noisy_view_batched:
            raise ValueError(
                "noisy_view_recompute: cannot be combined with noisy_view_batched, whose one pass holds the clean view's "
                "activations too, so nothing would be saved. Set one of the two."
            )
        if own.eval_packing and not (own.packing or own.padding_free) and self.perturbs("text"):
            raise ValueError(
                "eval_packing=True: texts are packed for evaluation, but without packing or padding_free batches do not say "
                "where one ends, so their prompts cannot be found. Set padding_free=True or eval_packing=False."
            )
        packed = own.packing or own.eval_packing
        if packed and self.perturbs("text") and own.packing_strategy != "bfd":
            raise ValueError(
                f"packing_strategy={own.packing_strategy!r}: cuts texts into pieces whose prompts cannot be found again, so "
                "a perturbation of text cannot be applied. Use packing_strategy='bfd'."
            )


def _ask(name: str, attribute: str) -> Any:
    return getattr(load_part("perturbations", name), attribute, None)


def known_settings(prefix: str, name: str, cls: Any, given: dict[str, Any]) -> dict[str, Any]:
    """
    Returns settings as they are given.

    Args:
        prefix (`str`):
            How the fields' names begin.
        name (`str`):
            Name of the part, or of the parts.
        cls (`type` or `Iterable[str]`):
            The part's class, or the settings that are known.
        given (`dict[str, Any]`):
            Settings by name.

    Raises:
        ValueError: If there is no such setting.
    """
    known = part_settings(cls) if isinstance(cls, type) else sorted(cls)
    for one in given:
        if one not in known:
            raise ValueError(
                f"{prefix}_{one}: {name} has no setting {one!r}, so the value would be ignored."
                f"{nearest(one, known)} It has: {', '.join(known) or 'none'}."
            )
    return given


def require_whole_documents(name: str, args: Any, consequence: str) -> None:
    """
    Raises ValueError where texts are packed in pieces, or in batches that do not say where one ends.

    Args:
        name (`str`):
            The setting that needs them whole.
        args (`Any`):
            The run's configuration.
        consequence (`str`):
            What would go wrong, from "so" on.
    """
    if (args.packing or args.eval_packing) and args.packing_strategy != "bfd":
        raise ValueError(
            f"{name}: packing_strategy={args.packing_strategy!r} cuts documents, {consequence}. Use packing_strategy='bfd'."
        )
    if args.eval_packing and not (args.packing or args.padding_free):
        raise ValueError(
            f"{name}: eval_packing=True without packing or padding_free leaves batches that do not say where a text ends, "
            f"{consequence}. Set padding_free=True or eval_packing=False."
        )


def build_part(prefix: str, cls: type, settings: dict[str, Any]) -> Any:
    """Builds a part; what it says of its setting is said of the user's field."""
    try:
        return cls(**settings)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{prefix}{error}") from error
