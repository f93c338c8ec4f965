# SPDX-License-Identifier: Apache-2.0
"""The card that is saved and pushed beside the weights: what was trained, on what, how, what came of it and what is not claimed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .public import hub_id, is_private, public_prose, public_text
from .written_part import with_marks

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCard

_HUB = "https://huggingface.co/"
_TEMPLATE = Path(__file__).parent / "templates" / "model_card.md"

_TAGS = ("hf_ckt", "trl", "sft", "contrastive-distillation", "knowledge-distillation", "robustness", "safety")

_PAPER_CITATION = """\
@misc{2510.27077,
  title         = {Contrastive Knowledge Transfer and Robust Optimization for Secure Alignment of Large Language Models},
  year          = {2025},
  eprint        = {2510.27077},
  archivePrefix = {arXiv}
}"""

_TRL_CITATION = """\
@software{trl,
  title   = {{TRL: Transformers Reinforcement Learning}},
  author  = {von Werra, Leandro and Belkada, Younes and Tunstall, Lewis and Beeching, Edward and Thrush, Tristan and
             Lambert, Nathan and Huang, Shengyi and Rasul, Kashif and Gallou{\\'e}dec, Quentin},
  license = {Apache-2.0},
  url     = {https://github.com/huggingface/trl},
  year    = {2020}
}"""

RUN_FACTS = (
    "base_model",
    "base_licence",
    "base_weights",
    "teacher",
    "is_adapter",
    "hub_model_id",
    "data",
    "objective",
    "settings",
    "framework_versions",
    "training_summary",
    "command",
    "device",
    "resumed",
)
"""Arguments of [`build_model_card`] that are facts of the training; [`~hub.run_card.run_facts`] reads them off a trainer."""

LOAD_FROM = "path/to/the/folder/of/this/card"
"""What the card's code loads where the model is on no Hub; too long for a Hub id, so no model of a stranger is downloaded."""


@dataclass(frozen=True)
class CardEvaluation:
    """
    What a card says of an evaluation.

    Args:
        text (`str`):
            The section in Markdown: a table, and how it was measured.
        scores (`Sequence[EvalResult]`, *optional*):
            What the Hub shows beside the model.
    """

    text: str
    scores: "Sequence[EvalResult]" = ()


def build_model_card(
    *,
    model_name: str,
    base_model: str | None,
    objective: Sequence[Mapping[str, Any]],
    settings: Mapping[str, Any],
    framework_versions: Mapping[str, str],
    teacher: str | Sequence[Mapping[str, Any]] | None,
    is_adapter: bool,
    hub_model_id: str | None = None,
    tags: str | Sequence[str] | None = None,
    base_licence: str | None = None,
    base_weights: str | None = None,
    data: Mapping[str, Any] | None = None,
    training_summary: Mapping[str, Any] | None = None,
    command: str | None = None,
    device: str | None = None,
    resumed: bool = False,
    evaluation: CardEvaluation | None = None,
) -> "ModelCard":
    """
    Writes the card of a trained model or adapter. What was not given is said not to be recorded.

    Nothing of the machine reaches the card: a folder is shown by its last name alone and stays out of the metadata
    (a snapshot in the Hub's cache is named by its Hub id), and settings that hold a place or a token are left out.

    Args:
        model_name (`str`):
            Title of the card.
        base_model (`str`, *optional*):
            Hub id or folder of the base model. None: not known.
        objective (`Sequence[Mapping]`):
            One entry for each active term with `role`, `loss`, `weight`, `schedule` and `settings` (a mapping).
        settings (`Mapping`):
            Training settings by name.
        framework_versions (`Mapping[str, str]`):
            Library to version.
        teacher (`str` or `Sequence[Mapping]`, *optional*):
            Hub id or folder of the teacher, or words that describe it; or [`~hub.teacher_rows.teacher_rows`]. None: trained
            without one.
        is_adapter (`bool`):
            True when an adapter was saved and not a whole model.
        hub_model_id (`str`, *optional*):
            Where the model is, or will be, on the Hub. None: it stays local, and the code says to put the folder in.
        tags (`str` or `Sequence[str]`, *optional*):
            Tags besides hf_ckt's own.
        base_licence (`str`, *optional*):
            The licence of the base.
        base_weights (`str`, *optional*):
            What the base's weights are, where they are not those that its name stands for.
        data (`Mapping`, *optional*):
            What was trained on: `names`, Hub ids or words; `rows`, their number; `fingerprint`, see
            [`~data.rows_fingerprint.rows_fingerprint`].
        training_summary (`Mapping`, *optional*):
            Last logged values, steps, time. They are shown as measured on the training run.
        command (`str`, *optional*):
            What was typed to train.
        device (`str`, *optional*):
            What it was trained on.
        resumed (`bool`, *optional*, defaults to `False`):
            Whether the measured time is that of the last part of a training that was stopped.
        evaluation ([`CardEvaluation`], *optional*):
            None: the card says that nothing was evaluated.

    Returns:
        [`~huggingface_hub.ModelCard`]
    """
    from huggingface_hub import ModelCard, ModelCardData

    names = list((data or {}).get("names") or [])
    extra_tags = [tags] if isinstance(tags, str) else list(tags or [])
    # Of a repository it is known that it is none of the folders, though one may have its name.
    own_id = hub_model_id or None
    base_id, name = hub_id(base_model), public_text(model_name)
    scores = list(evaluation.scores) if evaluation else []
    metadata = ModelCardData(
        library_name="peft" if is_adapter else "transformers",
        pipeline_tag="text-generation",
        base_model=base_id,
        datasets=[one for one in map(hub_id, names) if one] or None,
        tags=list(dict.fromkeys([*_TAGS, *extra_tags])),
        model_name=own_id or name if scores else None,
        eval_results=scores or None,
    )
    if is_adapter and base_id:
        metadata["base_model_relation"] = "adapter"
    card = ModelCard.from_template(
        metadata,
        template_path=str(_TEMPLATE),
        model_name=name,
        base_link=card_link(base_model) or "not recorded",
        base_licence=_cell(base_licence or "not known"),
        base_weights=_cell(base_weights or ""),
        data=_data(names, data or {}),
        trained_on=_trained_on(device, training_summary or {}, resumed),
        teachers=_teachers(teacher),
        is_adapter=is_adapter,
        is_published=own_id is not None,
        load_from=own_id or LOAD_FROM,
        objective_table=_objective_table(objective),
        settings_table=_table(("setting", "value"), _public_items(settings)),
        summary_table=_table(("value", ""), _public_items(training_summary)) if training_summary else "",
        evaluation=public_prose(evaluation.text) if evaluation else "",
        backbone=_cell(settings.get("backbone") or ""),
        command=public_prose(command or ""),
        versions_table=_table(("library", "version"), list(framework_versions.items())),
        paper_citation=_PAPER_CITATION,
        trl_citation=_TRL_CITATION,
    )
    card.text = "\n" + with_marks(card.text)
    return card


def card_link(name: str | None, address: str = _HUB) -> str:
    """Returns a name as the card shows it: a Hub id as a link below an address, all else as plain text."""
    known = hub_id(name)
    # A word without an owner may be a description ("self") as well as an old Hub id: it is no link.
    if known and "/" in known:
        return f"[{known}]({address}{known})"
    return _cell(name) if name else ""


def _data(names: Sequence[str], data: Mapping[str, Any]) -> str:
    """What was trained on, its size and its fingerprint; of each what is not recorded."""
    if not any(data.values()):
        return "not recorded"
    rows, digest = data.get("rows"), data.get("fingerprint")
    said = [card_link(one, f"{_HUB}datasets/") for one in names] or ["name not recorded"]
    said.append("number of rows not recorded" if rows is None else f"{rows} rows")
    return ", ".join([*said, f"fingerprint {_cell(digest)}" if digest else "fingerprint not recorded"])


def _trained_on(device: str | None, summary: Mapping[str, Any], resumed: bool) -> str:
    seconds = summary.get("train_runtime")
    part = " since it was last resumed" if resumed else ""
    time = "time not recorded" if seconds is None else f"{seconds:.0f} s of training{part}"
    return f"{_cell(device or 'device not recorded')}; {time}; energy not measured"


def _teachers(teacher: str | Sequence[Mapping[str, Any]] | None) -> list[tuple[str, str]]:
    """The table's lines about teachers: a heading and what stands beside it."""
    if teacher is None or isinstance(teacher, str):
        return [("Teacher", card_link(teacher) or "none")]
    found = []
    for row in teacher:
        said = [f"kind {row['kind']}"]
        said += [f"an adapter on {card_link(row['base'])}"] if row.get("base") else []
        said += [f"revision {row['revision'][:12]}"] if row.get("revision") else []
        said += [f"held in {row['quantization']}"] if row.get("quantization") else []
        said += [f"licence {row['licence']}" if row.get("licence") else "licence not known"]
        name = f"Teacher of rows that name {row['route']}" if row.get("route") else "Teacher"
        # What is a link stays one; all else is cleaned.
        described = ", ".join(one if "](" in one else _cell(one) for one in said)
        found.append((_cell(name), f"{card_link(row.get('name'))} ({described})"))
    return found


def _public_items(values: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [(key, value) for key, value in values.items() if not is_private(key)]


def _objective_table(objective: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        (term["role"], term["loss"], term["weight"], term.get("schedule") or "constant", term.get("settings") or "")
        for term in objective
    ]
    return _table(("role", "loss", "weight", "schedule", "settings"), rows)


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [header, ["---"] * len(header), *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) if rows else "None."


def _cell(value: Any) -> str:
    return " ".join(public_text(value).split()).replace("|", "\\|")
