# SPDX-License-Identifier: Apache-2.0
"""The card that is saved and pushed beside the weights: what was trained, on what, how, and what is not claimed."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from huggingface_hub import ModelCard

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

# Settings that name a place on the machine or a secret. They are left out whole; everything else is cleaned by value.
_PRIVATE_SETTING = re.compile(r"(_dir|_path|_file|_cache|^run_name|^resume_from_checkpoint|password|secret|api_key)$")
_PUBLIC_TOKENS = ("eos_token", "pad_token", "bos_token", "unk_token")

SECRET = re.compile(
    r"\b(?:hf_|api_org_|ghp_|gho_)[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}|\bsk-[\w-]{20,}|(?<=://)[^/@\s]+(?=@)"
)
"""What looks like an access token, or a name and password within an address."""
_HUB_CACHE = re.compile(r"\bmodels--(?P<id>[\w.-]+?)[/\\]snapshots\b")
# An absolute path inside a longer text: at least two parts, not the path of a web address and not a ratio.
_ABSOLUTE_PATH = re.compile(r"(?<![\w:/.~\\])(?:file://)?(?:~?(?:/[\w.@+ -]*[\w.@+-]){2,}|[A-Za-z]:[\\/][^\s'\"|]+)/?")
_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")

# Sentences of the template that depend on what is known when a card is pushed: see published_card.py.
PLACEHOLDER = "Put the folder that holds this card in place of the name."
EVALUATED = """\
- The table above holds all that was evaluated. Nothing is said about other data, languages, attacks or lengths.
- A rate of refusal alone is no sign of safety: a model that refuses blind to content can have any. Whether a model tells harmful
  from benign prompts is shown by scores with a chance level, and only where their interval lies above it."""
NOT_EVALUATED = """\
- No evaluation is part of this card: whether the model refuses what it should, answers what it should, or withstands noise
  has to be measured before anyone relies on it."""


def build_model_card(
    *,
    model_name: str,
    base_model: str | None,
    hub_model_id: str | None,
    dataset_name: str | Sequence[str] | None,
    tags: str | Sequence[str] | None,
    objective: Sequence[Mapping[str, Any]],
    settings: Mapping[str, Any],
    framework_versions: Mapping[str, str],
    teacher: str | Sequence[Mapping[str, Any]] | None,
    is_adapter: bool,
    training_summary: Mapping[str, Any] | None,
    base_weights: str | None = None,
    results: Sequence[Mapping[str, Any]] | None = None,
    results_note: str | None = None,
) -> "ModelCard":
    """
    Writes the card of a trained model or adapter.

    Nothing of the machine reaches the card: a folder is shown by its last name alone and stays out of the metadata
    (a snapshot in the Hub's cache is named by its Hub id), and settings that hold a place or a token are left out.

    Args:
        model_name (`str`):
            Title of the card.
        base_model (`str`, *optional*):
            Hub id or folder of the base model. None: not known.
        hub_model_id (`str`, *optional*):
            Where the model is, or will be, on the Hub. None: it stays local, and the snippet says to put the folder in.
        dataset_name (`str` or `Sequence[str]`, *optional*):
            Hub ids of the training data; what is local is shown by name only.
        tags (`str` or `Sequence[str]`, *optional*):
            Tags besides hf_ckt's own.
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
        training_summary (`Mapping`, *optional*):
            Last logged values, steps, time. They are shown as measured on the training run.
        base_weights (`str`, *optional*):
            What the base's weights are, where they are not those that its name stands for.
        results (`Sequence[Mapping]`, *optional*):
            Rows of an evaluation table. None: the card says that nothing was evaluated.
        results_note (`str`, *optional*):
            How they were measured, in words that stand below the table.

    Returns:
        [`~huggingface_hub.ModelCard`]
    """
    from huggingface_hub import ModelCard, ModelCardData

    datasets = [dataset_name] if isinstance(dataset_name, str) else list(dataset_name or [])
    extra_tags = [tags] if isinstance(tags, str) else list(tags or [])
    base_id, own_id = hub_id(base_model), hub_id(hub_model_id)
    data = ModelCardData(
        library_name="peft" if is_adapter else "transformers",
        pipeline_tag="text-generation",
        base_model=base_id,
        datasets=[name for name in map(hub_id, datasets) if name] or None,
        tags=list(dict.fromkeys([*_TAGS, *extra_tags])),
    )
    if is_adapter and base_id:
        data["base_model_relation"] = "adapter"
    name = public_text(model_name)
    return ModelCard.from_template(
        data,
        template_path=str(_TEMPLATE),
        model_name=name,
        base_link=card_link(base_model) or "not recorded",
        base_weights=_cell(base_weights) if base_weights else "",
        dataset_link=", ".join(card_link(item, "https://huggingface.co/datasets/") for item in datasets)
        or "not recorded",
        teachers=_teachers(teacher),
        is_adapter=is_adapter,
        is_published=own_id is not None,
        load_from=own_id or name,
        objective_table=_objective_table(objective),
        settings_table=_table(("setting", "value"), _public_items(settings)),
        summary_table=_table(("value", ""), _public_items(training_summary)) if training_summary else "",
        results_table=_results_table(results) if results else "",
        results_note=public_text(results_note or ""),
        backbone=_cell(settings.get("backbone") or ""),
        versions_table=_table(("library", "version"), list(framework_versions.items())),
        paper_citation=_PAPER_CITATION,
        trl_citation=_TRL_CITATION,
        placeholder=PLACEHOLDER,
        evaluated=EVALUATED,
        not_evaluated=NOT_EVALUATED,
    )


def public_text(value: Any) -> str:
    """
    Returns a value as text that may be published: folders become their last name, tokens are removed.

    Example:

    >>> public_text("/data/models/my-base")
    'my-base'
    >>> public_text("org/name"), public_text(2e-4), public_text(["q_proj", "v_proj"])
    ('org/name', '0.0002', 'q_proj, v_proj')
    """
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={public_text(item)}" for key, item in value.items() if not _is_private(str(key)))
    if isinstance(value, (list, tuple, set, frozenset)):
        items = sorted(map(str, value)) if isinstance(value, (set, frozenset)) else value
        return ", ".join(public_text(item) for item in items)
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(getattr(value, "value", value))  # an enum is shown by its value
    cached = _HUB_CACHE.search(text)
    if cached:
        return cached["id"].replace("--", "/")
    if _is_local(text):
        text = _last_name(text)
    text = _ABSOLUTE_PATH.sub(lambda match: _last_name(match[0]), text)
    return SECRET.sub("[removed]", text)


def public_facts(value: Any) -> Any:
    """
    Returns facts as JSON may hold and everybody may read them: numbers as they are, texts as [`public_text`] has them, and no
    settings that name a place or a secret.

    Example:

    >>> public_facts({"name": "/data/models/my-base", "weight": 0.5, "hub_token": "secret", "layers": ("a", None)})
    {'name': 'my-base', 'weight': 0.5, 'layers': ['a', None]}
    """
    value = getattr(value, "value", value)
    if isinstance(value, Mapping):
        return {str(key): public_facts(item) for key, item in value.items() if not _is_private(str(key))}
    if isinstance(value, (list, tuple)):
        return [public_facts(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float)) else public_text(value)


def _is_local(text: str) -> bool:
    """True for a folder or file of this machine, also for a relative one, which transformers prefers to a Hub id."""
    if text.startswith(("./", "../", "~", "file://", ".\\", "..\\")) or re.match(r"[A-Za-z]:[\\/]", text):
        return True
    return os.path.isabs(text) or (("/" in text or os.sep in text or "." in text) and os.path.exists(text))


def _last_name(path: str) -> str:
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1]


def hub_id(name: str | None) -> str | None:
    """
    Returns the name where it is a Hub id, None where it is local or free text.

    Args:
        name (`str`, *optional*):
            A name, or a folder; that of a snapshot in the Hub's cache is known by its id.
    """
    if not name:
        return None
    cached = _HUB_CACHE.search(name)
    if cached:
        return cached["id"].replace("--", "/")
    is_id = _HUB_ID.fullmatch(name) and not _is_local(name) and not os.path.exists(name) and not SECRET.search(name)
    return name if is_id else None


def card_link(name: str | None, address: str = _HUB) -> str:
    """Returns a name as the card shows it: a Hub id as a link below an address, all else as plain text."""
    known = hub_id(name)
    # A word without an owner may be a description ("self") as well as an old Hub id: it is no link.
    if known and "/" in known:
        return f"[{known}]({address}{known})"
    return _cell(name) if name else ""


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


def _is_private(key: str) -> bool:
    if key.endswith("token"):
        return key not in _PUBLIC_TOKENS
    return _PRIVATE_SETTING.search(key) is not None


def _public_items(values: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [(key, value) for key, value in values.items() if not _is_private(key)]


def _objective_table(objective: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        (term["role"], term["loss"], term["weight"], term.get("schedule") or "constant", term.get("settings") or "")
        for term in objective
    ]
    return _table(("role", "loss", "weight", "schedule", "settings"), rows)


def _results_table(results: Sequence[Mapping[str, Any]]) -> str:
    columns = list(dict.fromkeys(column for row in results for column in row))
    return _table(columns, [[row.get(column, "") for column in columns] for row in results])


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [header, ["---"] * len(header), *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) if rows else "None."


def _cell(value: Any) -> str:
    return " ".join(public_text(value).split()).replace("|", "\\|")
