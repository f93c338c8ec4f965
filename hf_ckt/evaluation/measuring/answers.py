# SPDX-License-Identifier: Apache-2.0
"""Greedy answers of a chat model."""

import copy
from collections.abc import Iterable, Sequence
from typing import Any

from tqdm import tqdm

from .generation import decoding, generating

# Prompts that are generated for at a time, and their tokens with padding and answers: long prompts make small batches.
_BATCH = 64
_BATCH_TOKENS = 24_576


def greedy_answers(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    system_prompt: str | None = None,
    new_tokens: int = 24,
    keep_generation_config: bool = False,
    title: str = "answering",
) -> list[str]:
    """
    Answers prompts by greedy decoding, so that the same model gives the same answers again: the token of highest logit
    each time, whatever penalties, beams or sampling the model's own generation configuration asks for.

    Args:
        model (`PreTrainedModel` or `PeftModel`):
            Left in the mode, training or not, that it is in.
        tokenizer (`PreTrainedTokenizerBase`):
            With a chat template; left as it is.
        prompts (`Sequence[str]`):
            What the user says.
        system_prompt (`str`, *optional*):
            Put before each prompt.
        new_tokens (`int`, *optional*, defaults to `24`):
            Most tokens of an answer.
        keep_generation_config (`bool`, *optional*, defaults to `False`):
            Answers as the model's own generation configuration says instead; what it samples is drawn with a fixed seed.
        title (`str`, *optional*, defaults to `"answering"`):
            Name of the progress bar.

    Returns:
        `list[str]`: the answers, in the order of the prompts.
    """
    answers: dict[str, str] = {}
    batches = plan_batches(tokenizer, prompts, system_prompt=system_prompt, new_tokens=new_tokens)
    for batch, _ in tqdm(batches, desc=title, unit="batch"):
        answers |= zip(
            batch,
            answer_batch(
                model,
                tokenizer,
                batch,
                system_prompt=system_prompt,
                new_tokens=new_tokens,
                keep_generation_config=keep_generation_config,
            ),
            strict=True,
        )
    return [answers[prompt] for prompt in prompts]


def plan_batches(
    tokenizer: Any, prompts: Iterable[str], *, system_prompt: str | None = None, new_tokens: int
) -> list[tuple[list[str], int]]:
    """
    Groups prompts of like length, each once. The groups depend on the prompts alone, not on their order nor on what has
    been answered already: in another group a prompt has other padding, and rounding may turn a greedy answer.

    Returns:
        `list[tuple[list[str], int]]`: the prompts of each batch, and the tokens that it takes with padding and answers.
    """
    unique = sorted(set(prompts))
    rendered = [len(ids) for ids in _render(tokenizer, unique, system_prompt)["input_ids"]] if unique else []
    batches: list[tuple[list[str], int]] = []
    batch: list[str] = []
    size = 0
    for length, prompt in sorted(zip(rendered, unique, strict=True)):
        if batch and (len(batch) == _BATCH or (len(batch) + 1) * (length + new_tokens) > _BATCH_TOKENS):
            batches.append((batch, size))
            batch = []
        batch.append(prompt)
        size = len(batch) * (length + new_tokens)
    return [*batches, (batch, size)] if batch else batches


def answer_batch(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    system_prompt: str | None = None,
    new_tokens: int,
    keep_generation_config: bool = False,
) -> list[str]:
    """Answers one batch of prompts; see [`greedy_answers`]. What is drawn at random depends on the batch alone."""
    import torch

    from ...models.backbone import frozen
    from ...models.positions import require_room

    inputs = left_padded(tokenizer, prompts, system_prompt).to(model.device)
    require_room(model, int(inputs["attention_mask"].sum(-1).max()) + new_tokens)
    config = decoding(model.generation_config, tokenizer, keep_own=keep_generation_config)
    config.max_new_tokens = new_tokens
    devices = [model.device] if model.device.type == "cuda" else []
    with frozen(model), generating(model, config), torch.random.fork_rng(devices):
        torch.manual_seed(0)
        output = model.generate(**inputs, **({"tokenizer": tokenizer} if config.stop_strings else {}))
    rows = output[:, inputs["input_ids"].shape[1] :].tolist()
    ended = [_until_end(row, config.eos_token_id or ()) for row in rows]
    return [text.strip() for text in tokenizer.batch_decode(ended, skip_special_tokens=True)]


def _until_end(ids: list[int], ends: Sequence[int]) -> list[int]:
    """Tokens before the first one that ends an answer: not every end token is one that decoding skips."""
    return ids[: next((place for place, token in enumerate(ids) if token in ends), len(ids))]


def left_padded(tokenizer: Any, prompts: Sequence[str], system_prompt: str | None = None) -> Any:
    """Returns rendered prompts as a batch of tensors that all end in the last column, where an answer begins."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.padding_side = "left"
    return _render(tokenizer, prompts, system_prompt, return_tensors="pt", padding=True)


def _render(tokenizer: Any, prompts: Sequence[str], system_prompt: str | None, **kwargs: Any) -> Any:
    chats = [chat(prompt, system_prompt) for prompt in prompts]
    return tokenizer.apply_chat_template(chats, add_generation_prompt=True, return_dict=True, **kwargs)


def chat(prompt: str, system_prompt: str | None = None) -> list[dict[str, str]]:
    """Returns a prompt as messages."""
    system = [] if system_prompt is None else [{"role": "system", "content": system_prompt}]
    return [*system, {"role": "user", "content": prompt}]
