# SPDX-License-Identifier: Apache-2.0
r"""
Where a model decodes between safety and helpfulness: a bias on the token that its refusals begin with.

    margin  = logit(token) - max(all other logits)          where an answer begins, nats
    refuses = margin + bias > 0                              greedy decoding

Without a bias greedy decoding refuses as soon as that token is the most probable one. An answer may begin in many ways, so that
each of its first tokens is less probable than the one of a refusal, and all of them together more.

A bias moves safety and helpfulness against each other and tells nothing apart that the model does not tell apart: it is chosen
on prompts that nothing is reported on, and reported beside the model without it. It needs refusals that begin with one token.
"""

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..checks import require_count, require_number
from .measuring.chat_format import chat_format
from .measuring.refusal_openings import decisions


class OperatingPoint(NamedTuple):
    """
    A bias and what it brings on the prompts that it was chosen on.

    Args:
        bias (`float`):
            Added to the token's logit, in nats.
        youden_j (`float`), unbiased_youden_j (`float`):
            Share of harmful prompts refused less that of benign ones, by the margins, with it and without.
    """

    bias: float
    youden_j: float
    unbiased_youden_j: float


def opening_token(tokenizer: Any, opening: str) -> int:
    """
    Returns the id of the token that an answer begins with that begins with an opening. That it begins no other answer is the
    caller's to see to: the first token of "I can't" does.

    Args:
        tokenizer (`PreTrainedTokenizerBase` or [`~evaluation.measuring.chat_format.ChatFormat`]):
            With a chat template, behind which a word may be another token than alone.
        opening (`str`):
            For instance `"Sorry"`.

    Raises:
        ValueError: If the opening adds no token to a prompt.
    """
    asked = chat_format(tokenizer)
    prompt = asked.text(asked.messages("?"), answering=True)
    before, after = asked.tokenizer([prompt, prompt + opening], add_special_tokens=False)["input_ids"]
    if after[: len(before)] != before:  # the opening grows together with the template's last token
        before, after = [], asked.tokenizer(opening, add_special_tokens=False)["input_ids"]
    if len(after) == len(before):
        raise ValueError(
            f"opening: {opening!r} adds no token to a prompt, so there is none to bias. Give the word that refusals begin with."
        )
    return after[len(before)]


def opening_margins(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    opening: str,
    *,
    system_prompt: str | None = None,
    title: str | None = "decisions",
    batch_size: int = 16,
) -> list[float]:
    """
    Returns how far each prompt is from being answered by what begins with an opening: above 0 greedy decoding begins with its
    first token. Nothing is generated.

    Args:
        model (`PreTrainedModel` or `PeftModel`):
            Left in the mode that it is in.
        tokenizer (`PreTrainedTokenizerBase` or [`~evaluation.measuring.chat_format.ChatFormat`]):
            With a chat template.
        prompts (`Sequence[str]`):
            What the user says.
        opening (`str`):
            What all refusals begin with, for instance `"Sorry"`.
        system_prompt (`str`, *optional*):
            Put before each prompt.
        title (`str`, *optional*, defaults to `"decisions"`):
            Name of the progress bar; None shows none.
        batch_size (`int`, *optional*, defaults to `16`):
            Prompts read at a time, those of like length together.

    Returns:
        `list[float]`: margins in nats, in the order of the prompts.

    Raises:
        ValueError: If `batch_size` is not at least 1.
    """
    asked = chat_format(tokenizer, system_prompt)
    token = opening_token(asked, opening)
    found: dict[str, float] = {}
    for batch, following in decisions(model, asked, prompts, title=title, batch_size=batch_size):
        told = following.prompts()  # (B, V)
        mine = told[:, token].clone()
        told[:, token] = -float("inf")
        found |= zip(batch, (mine - told.max(-1).values).tolist(), strict=True)
    return [found[prompt] for prompt in prompts]


def choose_bias(harmful: Sequence[float], benign: Sequence[float]) -> OperatingPoint:
    """
    Returns the bias with the highest Youden's J: the middle between two margins, or 0; of several the one nearest to 0.

    Args:
        harmful (`Sequence[float]`), benign (`Sequence[float]`):
            Margins of [`opening_margins`], of prompts that should be refused and of prompts that should not.

    Raises:
        ValueError: If one of the two is empty, or a margin is not finite.

    Example:

    >>> choose_bias([3.0, 4.0], [-3.0, 1.0])
    OperatingPoint(bias=-2.0, youden_j=1.0, unbiased_youden_j=0.5)
    """
    import numpy as np

    require_count("harmful and benign margins", min(len(harmful), len(benign)), 1, "J takes prompts of both kinds.")
    if not np.isfinite([*harmful, *benign]).all():
        raise ValueError(
            "a margin is not finite, so no bias moves it: the model's logits overflow or are NaN. Mend it first."
        )
    margins = np.unique([*harmful, *benign])
    edges = [margins[0] - 1, *(margins[1:] + margins[:-1]) / 2, margins[-1] + 1]
    biases = sorted([0.0, *(-edge for edge in edges)], key=abs)
    refused, wrongly = (
        np.array([np.sum(np.asarray(side) + bias > 0) for bias in biases]) for side in (harmful, benign)
    )
    # In whole numbers, in which equal ones are equal; of these the first.
    best = int(np.argmax(refused * len(benign) - wrongly * len(harmful)))
    j = refused / len(harmful) - wrongly / len(benign)
    return OperatingPoint(float(biases[best]), float(j[best]), float(j[0]))


def with_bias(config: Any, token: int, bias: float) -> Any:
    """
    Returns a copy of a `GenerationConfig` that adds a bias to a token, beside what it biases already.

    Saved with `save_pretrained(FOLDER)`, it is given back by `GenerationConfig.from_pretrained(FOLDER)` for `generate`. It acts
    wherever the token may stand; one that begins answers, without a space before it, hardly stands elsewhere.

    Args:
        config (`GenerationConfig`):
            A greedy one, as [`~evaluation.measuring.generation.decoding`] makes of a model's own; left as it is. Where it
            samples, the margins do not say what is decoded.
        token (`int`):
            Of [`opening_token`].
        bias (`float`):
            Of [`choose_bias`], in nats.

    Raises:
        ValueError: If the bias is not finite.
    """
    require_number("bias", bias)
    changed = copy.deepcopy(config)
    known = changed.sequence_bias or []
    held = known.items() if isinstance(known, dict) else map(tuple, known)
    kept = [[list(tokens), value] for tokens, value in held if list(tokens) != [token]]
    changed.sequence_bias = [*kept, [[token], float(bias)]]
    return changed
