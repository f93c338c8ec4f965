# SPDX-License-Identifier: Apache-2.0
"""A saved card as it is pushed: it loads from the repository that it stands in, and shows the evaluation that goes with it."""

import re

from .model_card import EVALUATED, NOT_EVALUATED, PLACEHOLDER, card_link

_LOADED = re.compile(r'(?<=\n)name = "[^"\n]*"(?=\n)')
_BASE_ROW = re.compile(r"\n\| Base model \| (.*) \|\n")
_CLAIMS = "\n## What this card does not claim\n"


def published_card(
    card: str, repo_id: str, *, base_model: str | None = None, is_adapter: bool = True, evaluation: str | None = None
) -> str:
    """
    Returns a card's text as [`~hub.model_card.build_model_card`] would have written it, had it known what a push knows.

    A card by another hand is changed only where it has the same lines: what its author wrote stays. One with a section
    Evaluation keeps it.

    Args:
        card (`str`):
            The saved card.
        repo_id (`str`):
            Where it is pushed.
        base_model (`str`, *optional*):
            Hub id of the base, in place of a folder that the card names.
        is_adapter (`bool`, *optional*, defaults to `True`):
            Whether what goes up is an adapter on the base.
        evaluation (`str`, *optional*):
            The section's text: a table, and how it was measured. None: the card stays silent on it.

    Raises:
        ValueError: If the card has no head of metadata in YAML: the Hub would refuse or not understand it.

    Example:

    >>> text = '---\\nlibrary_name: peft\\n---\\n\\n# mine\\n\\n```python\\nname = "mine"\\n```\\n'
    >>> published_card(text, "me/mine").splitlines()[-2]
    'name = "me/mine"'
    """
    head, body = _split(card)
    body = _LOADED.sub(lambda _: f'name = "{repo_id}"', body, count=1).replace(f"\n{PLACEHOLDER}\n", "", 1)
    if base_model is not None:
        body, head = _with_base(body, base_model), _head_with_base(head, base_model, is_adapter)
    if evaluation is not None and "\n## Evaluation\n" not in body:
        section = f"\n## Evaluation\n\n{evaluation}\n"
        body = body.replace(f"\n{NOT_EVALUATED}\n", f"\n{EVALUATED}\n", 1)
        body = body.replace(_CLAIMS, section + _CLAIMS, 1) if _CLAIMS in body else body.rstrip("\n") + "\n" + section
    return f"---\n{head}\n---\n{body}"


def _split(card: str) -> tuple[str, str]:
    """The metadata and the text."""
    import yaml
    from huggingface_hub import ModelCard

    match = re.match(r"\ufeff?---\n(.*?)\n---\n(.*)\Z", card.replace("\r\n", "\n"), flags=re.S)
    try:
        known = None if match is None else ModelCard(card).data.to_dict()
    except (ValueError, TypeError, yaml.YAMLError) as error:
        said = " ".join(str(error).split())
        raise ValueError(
            f"README.md: its metadata cannot be read ({said}), so the Hub would refuse it. Correct what stands between its "
            "first two lines of ---."
        ) from error
    if match is None or not known:
        raise ValueError(
            "README.md: does not begin with metadata between two lines of ---, so the Hub would show neither base model nor "
            "library. Write it with trainer.create_model_card()."
        )
    return match[1], match[2]


def _with_base(body: str, base_model: str) -> str:
    row, link = _BASE_ROW.search(body), card_link(base_model)
    if row is None:
        return body
    for before in (f"An adapter for {row[1]},", f"A model fine-tuned from {row[1]},"):
        body = body.replace(before, before.replace(f" {row[1]},", f" {link},"), 1)
    return body.replace(row[0], f"\n| Base model | {link} |\n", 1)


def _head_with_base(head: str, base_model: str, is_adapter: bool) -> str:
    from huggingface_hub import ModelCard

    data = ModelCard(f"---\n{head}\n---\n").data
    data["base_model"] = base_model
    if is_adapter:
        data["base_model_relation"] = "adapter"
    return data.to_yaml()
