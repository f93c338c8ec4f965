# SPDX-License-Identifier: Apache-2.0
r"""
Where on its curve of safety against helpfulness a model decodes: a bias on the token that its refusals begin with.

    margin  = logit(token) - max(all other logits)          where an answer begins, nats
    refuses = margin + bias > 0                              greedy decoding

Without a bias greedy decoding refuses as soon as that token is the most probable one. An answer may begin in many ways, so that
each of its first tokens is less probable than the one of a refusal, and all of them together more.

A bias moves safety and helpfulness against each other and tells nothing apart that the model does not tell apart: it is chosen
on prompts that nothing is reported on, and reported beside the model without it. It needs refusals that begin with one token.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from tqdm import tqdm

from ..checks import require_count
from .measuring.answers import greedy_answers
from .measuring.chat_format import chat_format
from .measuring.generation import decoding, generating
from .measuring.refusal_openings import Following


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
    """Returns the id of an opening's first token where an answer begins, which is the one that decides."""
    return tokenizer(opening, add_special_tokens=False)["input_ids"][0]


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
    from ..models.backbone import frozen

    require_count("batch_size", batch_size, 1, "No prompt would be read.")
    asked = chat_format(tokenizer, system_prompt)
    token = opening_token(asked.tokenizer, opening)
    unique = list(dict.fromkeys(prompts))
    ids = dict(zip(unique, asked.ids(unique, answering=True), strict=True))
    unique.sort(key=lambda prompt: len(ids[prompt]))
    found: dict[str, float] = {}
    with frozen(model):
        for start in tqdm(range(0, len(unique), batch_size), desc=title, unit="batch", disable=title is None):
            batch = unique[start : start + batch_size]
            told = Following(model, [ids[prompt] for prompt in batch]).prompts()  # (B, V)
            mine = told[:, token].clone()
            told[:, token] = -float("inf")
            found |= zip(batch, (mine - told.max(-1).values).tolist(), strict=True)
    return [found[prompt] for prompt in prompts]


def choose_bias(harmful: Sequence[float], benign: Sequence[float]) -> OperatingPoint:
    """
    Returns the bias with the highest Youden's J: the middle between two margins, of several the one nearest to 0.

    Args:
        harmful (`Sequence[float]`), benign (`Sequence[float]`):
            Margins of [`opening_margins`], of prompts that should be refused and of prompts that should not.

    Raises:
        ValueError: If one of the two is empty.

    Example:

    >>> choose_bias([-1.0, 3.0, 4.0], [-5.0, -3.0, 1.0])
    OperatingPoint(bias=-2.0, youden_j=0.6666666666666666, unbiased_youden_j=0.33333333333333337)
    """
    import numpy as np

    require_count("harmful and benign margins", min(len(harmful), len(benign)), 1, "J takes prompts of both kinds.")
    margins = np.unique([*harmful, *benign])
    edges = [margins[0] - 1, *(margins[1:] + margins[:-1]) / 2, margins[-1] + 1]
    biases = np.array(sorted([0.0, *(-edge for edge in edges)], key=abs))

    def j(bias: float) -> float:
        refused, wrongly = (float(np.mean(np.asarray(side) + bias > 0)) for side in (harmful, benign))
        return refused - wrongly

    found = [j(bias) for bias in biases]
    best = int(np.argmax(found))  # of equal ones the first
    return OperatingPoint(float(biases[best]), found[best], found[0])


def with_bias(config: Any, token: int, bias: float) -> Any:
    """
    Returns a copy of a `GenerationConfig` that adds a bias to a token, beside what it biases already.

    Saved with `save_pretrained(FOLDER)`, it is given back by `GenerationConfig.from_pretrained(FOLDER)` for `generate`. It acts
    wherever the token may stand; one that begins answers, without a space before it, hardly stands elsewhere.

    Args:
        config (`GenerationConfig`):
            Of the model; left as it is.
        token (`int`):
            Of [`opening_token`].
        bias (`float`):
            Of [`choose_bias`], in nats.
    """
    import copy

    changed = copy.deepcopy(config)
    known = changed.sequence_bias or []
    held = known.items() if isinstance(known, dict) else map(tuple, known)
    kept = [[list(tokens), value] for tokens, value in held if list(tokens) != [token]]
    changed.sequence_bias = [*kept, [[token], float(bias)]]
    return changed


def biased_answers(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    answers: Sequence[str],
    opening: str,
    bias: float,
    *,
    system_prompt: str | None = None,
    new_tokens: int = 24,
    title: str = "answering with a bias",
) -> list[str]:
    """
    Returns greedy answers with a bias on the token that refusals begin with. Only prompts whose answer begins otherwise with it
    are asked again.

    Args:
        model (`PreTrainedModel` or `PeftModel`), tokenizer (`PreTrainedTokenizerBase`), prompts (`Sequence[str]`), opening (`str`),
        system_prompt (`str`, *optional*):
            As for [`opening_margins`].
        answers (`Sequence[str]`):
            Greedy ones to the same prompts, of as many `new_tokens`, without a bias.
        bias (`float`):
            Of [`choose_bias`], in nats.
        new_tokens (`int`, *optional*, defaults to `24`), title (`str`, *optional*):
            As for [`~evaluation.measuring.answers.greedy_answers`].
    """
    margins = opening_margins(
        model, tokenizer, prompts, opening, system_prompt=system_prompt, title=f"{title}: decisions"
    )
    turned = [at for at, margin in enumerate(margins) if (margin > 0) != (margin + bias > 0)]
    plain = chat_format(tokenizer, system_prompt).tokenizer
    config = with_bias(decoding(model.generation_config, plain), opening_token(plain, opening), bias)
    with generating(model, config):
        said = greedy_answers(
            model,
            tokenizer,
            [prompts[at] for at in turned],
            system_prompt=system_prompt,
            new_tokens=new_tokens,
            keep_generation_config=True,
            title=title,
        )
    anew = dict(zip(turned, said, strict=True))
    return [anew.get(at, answer) for at, answer in enumerate(answers)]
