# SPDX-License-Identifier: Apache-2.0
"""What a model can still do, in the form that an example's results file keeps: packaged questions and plain text."""

from collections.abc import Mapping
from typing import Any

from ...data.plain_text import load_plain_text
from ...data.prompt_sets import load_choices
from ..measuring.text_nats import text_nats
from ..measuring.utility import choice_answers, choice_row, passage_row


def ask_utility(
    model: Any, tokenizer: Any, *, system_prompt: str | None = None, title: str = "utility"
) -> list[dict[str, Any]]:
    """
    Returns what a model chooses of each packaged question, and how well it predicts each packaged passage, as rows with what
    [`utility_rows`] needs.

    Args:
        model (`PreTrainedModel` or `PeftModel`), tokenizer (`PreTrainedTokenizerBase`):
            Left as they are.
        system_prompt (`str`, *optional*):
            Put before each question; passages are read as they are.
        title (`str`, *optional*, defaults to `"utility"`):
            Of the progress bars.
    """
    questions, passages = load_choices(), load_plain_text()
    chosen = choice_answers(
        model, tokenizer, questions, system_prompt=system_prompt, title=f"{title}: multiple choice"
    )
    told = text_nats(model, tokenizer, [passage.text for passage in passages], title=f"{title}: plain text")
    rows = [choice_row(question, number) for question, number in zip(questions, chosen, strict=True)]
    rows += [passage_row(passage, one) for passage, one in zip(passages, told, strict=True)]
    return rows


def utility_rows(kept: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the completion rows of what a model's part of a results file keeps under `utility`, if it does."""
    blank = {"suite": "utility", "kind": "question", "corruption": "", "severity": 0.0}
    return [{**blank, **row} for row in kept.get("utility", ())]
