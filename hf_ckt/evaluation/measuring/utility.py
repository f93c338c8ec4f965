# SPDX-License-Identifier: Apache-2.0
"""What a model can still do: multiple-choice questions, and word problems with a number as the answer."""

import re
from collections.abc import Sequence
from typing import Any

import torch

from ...data.plain_text import PlainText
from ...data.prompt_sets import ChoiceQuestion
from ...models.backbone import frozen
from ...progress.bars import ProgressBar
from .answers import left_padded
from .chat_format import chat_format
from .text_nats import TextNats

LETTERS = "ABCDEFGH"
_BATCH = 16
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def choice_prompt(question: ChoiceQuestion) -> str:
    """
    Returns a multiple-choice question as the user asks it.

    Example:

    >>> print(choice_prompt(ChoiceQuestion("q/1", "sums", "What is 2 + 2?", ("3", "4"), 1)))
    What is 2 + 2?
    A. 3
    B. 4
    Answer with the letter alone.
    """
    options = [f"{letter}. {option}" for letter, option in zip(LETTERS, question.options, strict=False)]
    return "\n".join([question.question, *options, "Answer with the letter alone."])


def choice_row(question: ChoiceQuestion, chosen: int) -> dict[str, Any]:
    """Returns the completion row of a multiple-choice question of which the option `chosen` was taken."""
    return {
        "set": "multiple_choice",
        "prompt_id": question.id,
        "category": question.subject,
        "prompt": choice_prompt(question),
        "answer": LETTERS[chosen],
        "correct": chosen == question.answer,
        "options": len(question.options),
    }


def passage_row(passage: PlainText, told: TextNats) -> dict[str, Any]:
    """Returns the completion row of a passage of plain text that a model has read."""
    return {
        "set": "plain_text",
        "prompt_id": passage.id,
        "category": passage.kind,
        "prompt": passage.text,
        "answer": "",
        "nats": told.nats,
        "tokens": told.tokens,
    }


def choice_answers(
    model: Any,
    tokenizer: Any,
    questions: Sequence[ChoiceQuestion],
    *,
    system_prompt: str | None = None,
    title: str | None = "multiple choice",
) -> list[int]:
    """
    Returns the option whose letter the model holds most probable as the first token of its answer, for each question.

    Nothing is generated, so an answer in any other form counts by what it would most likely have begun with. Ties go to
    the first letter.

    Args:
        model (`PreTrainedModel` or `PeftModel`):
            Left in the mode that it is in.
        tokenizer (`PreTrainedTokenizerBase` or [`ChatFormat`]):
            With a chat template, in which each letter is one token.
        questions (`Sequence[ChoiceQuestion]`):
            With 2 to 8 options each.
        system_prompt (`str`, *optional*):
            Put before each question; a [`ChatFormat`] has its own.
        title (`str`, *optional*, defaults to `"multiple choice"`):
            Name of the progress bar; None for none.
    """
    asked = chat_format(tokenizer, system_prompt)
    words = [asked.tokenizer(letter, add_special_tokens=False)["input_ids"][0] for letter in LETTERS]
    letters = torch.tensor(words)
    prompts = [choice_prompt(question) for question in questions]
    chosen = [0] * len(questions)
    order = sorted(range(len(questions)), key=lambda index: (len(prompts[index]), index))
    with frozen(model):
        for start in ProgressBar(range(0, len(order), _BATCH), desc=title, unit="batch", disable=title is None):
            batch = order[start : start + _BATCH]
            inputs = left_padded(asked, [prompts[index] for index in batch]).to(model.device)
            positions = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
            logits = model(**inputs, position_ids=positions, logits_to_keep=1).logits[:, -1]
            for index, scores in zip(batch, logits.float().cpu()[:, letters], strict=True):
                chosen[index] = int(scores[: len(questions[index].options)].argmax())
    return chosen


def last_number(text: str) -> float | None:
    """
    Returns the last number in a worked solution: where models put their result.

    Example:

    >>> last_number("That is 3 + 4 = 7, so she pays $1,250.50."), last_number("I do not know.")
    (1250.5, None)
    """
    found = _NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None
