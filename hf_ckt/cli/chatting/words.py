# SPDX-License-Identifier: Apache-2.0
"""What the terminal and the page say in the same words."""

from ...evaluation.measuring.chat_format import ChatFormat
from ...evaluation.measuring.models import EvaluatedModel, public_name
from ...evaluation.measuring.refusal_openings import Leaning
from ...evaluation.measuring.weights import precision_warnings, scored_precision
from ...evaluation.side_by_side import SideBySide
from ...models.precision import precision_name

MARGIN_HELP = (
    "Refusal margin: the log-probability of beginning with a refusal less that of beginning with a compliant opening, in "
    "nats, before a word is said. Above 0 the model leans to refusing."
)
ALONE = "Every prompt stands alone: no model reads earlier answers."


def title(entry: EvaluatedModel) -> str:
    """Returns what a model's answers stand under."""
    return f"{entry.name}: {public_name(entry.adapter or entry.model)}"


def margin(asked: Leaning, clean: Leaning | None = None) -> str:
    """Returns a refusal margin with its unit; `clean`: that of the prompt without its noise, where it has any."""
    return f"{asked.margin:+.2f} nats" + ("" if clean is None else f" (clean prompt {clean.margin:+.2f})")


def undrawn(side: SideBySide) -> str:
    """Returns how answers are made at temperature 0, in words."""
    return "each model's own generation configuration" if side.keep_generation_config else "greedy"


def introduction(side: SideBySide) -> list[str]:
    """Returns what is said once: the models, how they are loaded, and what they read before the prompt."""
    precisions = {precision_name(scored_precision(entry, side.loading)) for entry in side.entries}
    lines = [f"{' | '.join(map(title, side.entries))} | backbone in {', '.join(sorted(precisions))}"]
    said = {entry.name: _system_prompt(asked) for entry, asked in side.formats.items()}
    if len({*said.values()}) == 1:
        lines.append(f"System prompt: {next(iter(said.values()))}")
    else:
        lines += [f"System prompt of {name}: {text}" for name, text in said.items()]
    if len({asked.text(asked.messages("?")) for asked in side.formats.values()}) > 1:
        lines.append("The chat templates of the models differ, so the same prompt reaches each in another text.")
    return [*lines, *precision_warnings(side.entries, side.loading)]


def _system_prompt(asked: ChatFormat) -> str:
    if asked.system_prompt is not None:
        place = "" if asked.has_system_role else " (in front of the prompt: the chat template has no system role)"
        return f"“{asked.system_prompt}”{place}"
    inserted = asked.inserted_system_prompt
    if inserted:
        return f"none given; the chat template puts its own: “{inserted}”"
    return "none"
