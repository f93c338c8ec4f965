# SPDX-License-Identifier: Apache-2.0
"""The card of a saved run, in its folder or on the Hub: written anew from the training's record, its author's words left alone."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..models.precision import RECORD
from .model_card import RUN_FACTS, CardEvaluation, build_model_card
from .public import hub_id, public_prose
from .saved_run import CARD, SavedRun
from .written_part import WrittenPart, find_written_part

if TYPE_CHECKING:
    from huggingface_hub import ModelCard

_TITLE = re.compile(r"^# (.+)$", re.M)
# Of the form that PEFT writes beside weights; nobody has filled it in where it still has no title.
_EMPTY_FORM = "\n# Model Card for Model ID\n"
# Metadata that a card's facts decide; what else there is, a licence or a language, is its author's.
_DECIDED = ("library_name", "pipeline_tag", "base_model", "base_model_relation", "model-index")
_ADDED_TO = ("datasets", "tags")


def saved_card(
    run: SavedRun,
    *,
    repo_id: str | None = None,
    base_model: str | None = None,
    evaluation: CardEvaluation | None = None,
) -> str:
    """
    Returns the text of a saved run's card, as `hf-ckt card` writes it and `hf-ckt push` publishes it.

    What hf_ckt wrote is written anew, from the record beside the weights. What stands around it stays, and so does the metadata
    that is not hf_ckt's. PEFT's empty form is no card. One that is wholly by another hand keeps its text: it is given `base_model` as metadata, the scores where
    it has none, and a section Evaluation, unless it has one.

    Args:
        run ([`~hub.saved_run.SavedRun`]):
            The sorted folder.
        repo_id (`str`, *optional*):
            Where the model is, or will be, on the Hub. None: what the training was told.
        base_model (`str`, *optional*):
            Hub id of the base, in place of a folder that the card names.
        evaluation ([`~hub.model_card.CardEvaluation`], *optional*):
            None: the card says that nothing was evaluated; one by another hand stays silent.

    Raises:
        ValueError: If the card's metadata cannot be read, hf_ckt's part of it was changed by hand, or there is no record to write
            it from.
    """
    path = run.folder / CARD
    try:
        text = path.read_text(encoding="utf-8-sig").replace("\r\n", "\n") if path.is_file() else None
    except UnicodeDecodeError as error:
        raise ValueError(f"{CARD}: is not UTF-8 ({error}), so the Hub would refuse it. Save it as UTF-8.") from error
    if text is not None and _EMPTY_FORM in text:
        text = None
    part = None if text is None else find_written_part(text)
    if text is not None and part is None:
        return _by_hand(text, repo_id or run.folder.resolve().name, base_model, run.is_adapter, evaluation)
    if part is not None and part.is_changed:
        raise ValueError(
            f"{CARD}: the part between its lines <!-- hf_ckt ... --> was changed by hand, and is written anew with every card, so "
            "the change would be lost. Move your words above or below these lines, or remove both, and the whole card is yours."
        )
    title = _TITLE.search(part.text) if part is not None else None
    facts = _recorded(run.folder) | {"is_adapter": run.is_adapter}
    known = hub_id(facts["base_model"])
    if known is not None and base_model not in (None, known):
        raise ValueError(
            f"--base-model: it was trained on {known!r}, got {base_model!r}. The card would name weights that it was not made for. "
            "Leave --base-model out."
        )
    given = {"hub_model_id": repo_id, "base_model": base_model}
    written = build_model_card(
        **facts | {name: value for name, value in given.items() if value is not None},
        model_name=run.folder.resolve().name if title is None else title[1],
        evaluation=evaluation,
    )
    return written.content if text is None or part is None else _among(text, part, written)


def _recorded(folder: Path) -> dict[str, Any]:
    """The facts of a training that the record beside its weights holds."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        missing = [name for name in RUN_FACTS if name not in record.keys()]  # noqa: SIM118 - refuses what is no mapping
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{folder}: has no {RECORD} that can be read ({type(error).__name__}), so what was trained, on what and how is not "
            "known. Save the model again with trainer.save_model(), or write a card by hand."
        ) from error
    if missing:
        raise ValueError(
            f"{RECORD}: does not hold {', '.join(missing)}, as if an older version of hf_ckt wrote it, so a card from it would "
            "leave these out. Save the model again with trainer.save_model(), or write a card by hand."
        )
    return {name: record[name] for name in RUN_FACTS}


def _among(text: str, part: WrittenPart, written: "ModelCard") -> str:
    """A card as it was, with what hf_ckt says put in its place."""
    from huggingface_hub import ModelCardData

    old, new = _without_peft_tags(_metadata(text)), written.data.to_dict()
    for name in _ADDED_TO:
        new[name] = list(dict.fromkeys([*new.get(name, ()), *_listed(old.get(name))])) or None
    new |= {name: value for name, value in old.items() if name not in (*_DECIDED, *_ADDED_TO)}
    before = text[: part.start].split("\n---\n", 1)[1]
    return f"---\n{ModelCardData(**new).to_yaml()}\n---\n{before}{written.text.lstrip()}{text[part.end :]}"


def _by_hand(text: str, name: str, base_model: str | None, is_adapter: bool, evaluation: CardEvaluation | None) -> str:
    """A card by another hand, with what it lacks."""
    from huggingface_hub import ModelCardData

    new = _without_peft_tags(_metadata(text))
    if base_model is not None:
        new |= {"base_model": base_model} | ({"base_model_relation": "adapter"} if is_adapter else {})
    if evaluation is not None and evaluation.scores and "model-index" not in new:
        new |= {"model_name": name, "eval_results": list(evaluation.scores)}
    head, body = text.split("\n---\n", 1)
    if new != _metadata(text):
        head = f"---\n{ModelCardData(**new).to_yaml()}"
    if evaluation is not None and "\n## Evaluation\n" not in body:
        body = f"{body.rstrip()}\n\n## Evaluation\n\n{public_prose(evaluation.text)}\n"
    return f"{head}\n---\n{body}"


def _without_peft_tags(metadata: dict[str, Any]) -> dict[str, Any]:
    """Metadata without the tags by which PEFT names the base once more, be it a folder of this machine."""
    kept = [tag for tag in _listed(metadata.get("tags")) if not str(tag).startswith("base_model:")]
    return metadata | ({"tags": kept} if "tags" in metadata else {})


def _metadata(card: str) -> dict[str, Any]:
    import yaml
    from huggingface_hub import ModelCard

    try:
        found = ModelCard(card).data.to_dict() if re.match(r"---\n.*?\n---\n", card, re.S) else {}
    except (ValueError, TypeError, yaml.YAMLError) as error:
        said = " ".join(str(error).split())
        raise ValueError(
            f"{CARD}: its metadata cannot be read ({said}), so the Hub would refuse it. Correct what stands between its first two "
            "lines of ---."
        ) from error
    if not found:
        raise ValueError(
            f"{CARD}: does not begin with metadata between two lines of ---, so the Hub would show neither base model nor library. "
            "Put them there, or remove the file and write it anew with `hf-ckt card`."
        )
    return dict(found)


def _listed(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())
