# SPDX-License-Identifier: Apache-2.0
"""Has the harness put its questions to a model as `hf-ckt evaluate` does."""

from collections.abc import Iterable
from typing import Any

from ..measuring.chat_format import ChatFormat, chat_formats
from ..measuring.models import EvaluatedModel


def formats_without_thoughts(entries: Iterable[EvaluatedModel], **settings: Any) -> dict[EvaluatedModel, ChatFormat]:
    """
    Returns how each entry is asked, without a thought before its answers: a task's limit is one of all that is generated.

    Args:
        entries (`Iterable[EvaluatedModel]`):
            The models.
        settings:
            Of [`~evaluation.measuring.chat_format.chat_formats`].

    Raises:
        ValueError: If a model has no chat template, or cannot be sent the system prompt.
    """
    try:
        return chat_formats(entries, thinking_tokens=0, **settings)
    except ValueError as error:
        if "no chat template" not in str(error):
            raise
        raise ValueError(f"{error} Or pass --no-chat-template to send each question as plain text.") from error


def send_as(lm: Any, asked: ChatFormat) -> None:
    """
    Has one of the harness's models put its chats as `hf-ckt evaluate` does. By itself the harness leaves a system prompt
    out where the template has no system role, and says in the results that it was sent.

    Args:
        lm (`lm_eval.api.model.LM`):
            Its `apply_chat_template` is replaced.
        asked ([`ChatFormat`]):
            How chats are put.
    """

    def apply(chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        messages = asked.placed(chat_history)
        if add_generation_prompt:
            return asked.text(messages)
        return asked.text(messages, add_generation_prompt=False, continue_final_message=True)

    lm.apply_chat_template = apply
