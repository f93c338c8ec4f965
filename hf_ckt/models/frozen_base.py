# SPDX-License-Identifier: Apache-2.0
"""Whether the student with its adapters switched off is the model that it started from."""

from typing import Any

from torch import nn

from ._upstream import has_switchable_adapters, rewrites_base, trained_in_place


def why_no_frozen_base(model: nn.Module) -> str | None:
    """
    Returns why the model with its adapters off is not a frozen base, as a sentence without its end, or None.

    A self-teacher that drifts with its student, or that is another model from the start, teaches something else than
    what it is taken for, and no number of the log shows it.

    Args:
        model (`torch.nn.Module`):
            The causal language model, its adapters inside.
    """
    if not has_switchable_adapters(model):
        return "without a PEFT adapter that can be switched off (peft_config=..., in a shell --use-peft) the student has no frozen base"
    configs: dict[str, Any] = getattr(model, "peft_config", {})
    setting = next(filter(None, map(rewrites_base, configs.values())), None)
    if setting is not None:
        return (
            f"{setting} changed the base's own weights when the adapter was added, so with the adapter off the student is "
            "not the model that was loaded (use another initialization)"
        )
    names = trained_in_place(model)
    if names:
        others = f" and {len(names) - 1} more" if len(names) > 1 else ""
        return (
            f"{names[0]}{others} will train outside of the adapters (LoRA's bias='all' or 'lora_only' does that, or it was "
            "unfrozen by hand), so with the adapters off the student would not be the model that was loaded (freeze it)"
        )
    return None
