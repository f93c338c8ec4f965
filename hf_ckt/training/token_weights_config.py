# SPDX-License-Identifier: Apache-2.0
"""The fields of [`ContrastiveRobustConfig`] that say how much each token counts in a role's loss."""

from dataclasses import dataclass
from typing import Any, ClassVar

from ..checks import require_known
from ..discovery import load_part, part_names, part_settings
from ..token_weights.base import TokenWeights
from .noise_config import build_part, known_settings, require_whole_documents, setting

WEIGHED_ROLES = ("task", "distillation")
_UNIFORM = "uniform"
_NAMES = ", ".join(part_names("token_weights"))


def _token_weights(role: str) -> Any:
    return setting(
        f"How much each token counts in the {role} loss, by name: {_NAMES}. The weights of a micro-batch have mean 1, and "
        f"{role}_loss in the log is the weighted mean.",
        _UNIFORM,
    )


@dataclass
class TokenWeightsConfig:
    """Which tokens the task and distillation losses count for more."""

    dict_fields: ClassVar[tuple[str, ...]] = ("token_weights_settings",)

    task_token_weights: str = _token_weights("task")
    distillation_token_weights: str = _token_weights("distillation")
    token_weights_half_life: float | None = setting(
        "position_decay: tokens, > 0, over which the weight above the floor falls to half. None: its default, 5."
    )
    token_weights_floor: float | None = setting(
        "Least weight before they are divided by their mean, in [0, 1): what a token keeps that is far from the beginning, "
        "or at which teacher and base agree. None: the default of the weighting, 0.1."
    )
    token_weights_settings: dict[str, Any] | str | None = setting(
        "Settings by role where the two differ, and those that have no field here, e.g. {'task': {'half_life': 8.0}}. None: "
        "each weighting keeps its own."
    )

    @property
    def token_weights(self) -> dict[str, TokenWeights]:
        """
        The weightings by role, without those that count every token alike.

        Raises:
            ValueError: If a name is unknown, or a setting belongs to no weighting.
        """
        names = {role: getattr(self, f"{role}_token_weights") for role in WEIGHED_ROLES}
        for role, name in names.items():
            require_known(f"{role}_token_weights", name, part_names("token_weights"))
        classes = {role: load_part("token_weights", name) for role, name in names.items()}
        own = self.token_weights_settings if isinstance(self.token_weights_settings, dict) else {}
        for role in own:
            require_known("token_weights_settings", role, WEIGHED_ROLES)
        given = {one: getattr(self, f"token_weights_{one}") for one in ("half_life", "floor")}
        given = {one: value for one, value in given.items() if value is not None}
        everywhere = {one for cls in classes.values() for one in part_settings(cls)}
        known_settings("token_weights", " and ".join(dict.fromkeys(names.values())), everywhere, given)
        parts = {}
        for role, cls in classes.items():
            settings = {one: value for one, value in given.items() if one in part_settings(cls)}
            settings |= known_settings("token_weights_settings", names[role], cls, own.get(role, {}))
            parts[role] = build_part("token_weights_", cls, settings)
        return {role: part for role, part in parts.items() if names[role] != _UNIFORM}

    @property
    def changes_task(self) -> bool:
        """Whether the task's loss is another than SFTTrainer's at the same weight."""
        own: Any = self
        return bool(own.label_trust or "task" in (own.role_rows or {}) or self.task_token_weights != _UNIFORM)

    def _check_token_weights(self) -> None:
        for role, part in self.token_weights.items():
            if part.reads_positions:
                name = f"{role}_token_weights={getattr(self, f'{role}_token_weights')!r}"
                unknown = "so tokens would be counted from elsewhere than an answer's beginning"
                require_whole_documents(name, self, unknown)
