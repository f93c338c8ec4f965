# SPDX-License-Identifier: Apache-2.0
"""Greedy answers of a chat model."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from tqdm import tqdm

# Prompts that are generated for at a time; those of like length share a batch.
_BATCH = 64


@torch.inference_mode()
def greedy_answers(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    system_prompt: str | None = None,
    new_tokens: int = 24,
    title: str = "answering",
) -> list[str]:
    """
    Answers prompts by greedy decoding, so that the same model gives the same answers again.

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
        title (`str`, *optional*, defaults to `"answering"`):
            Name of the progress bar.

    Returns:
        `list[str]`: the answers, in the order of the prompts.
    """
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.padding_side = "left"  # generation goes on from the last column
    was_training = model.training
    model.eval()
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    answers = [""] * len(prompts)
    for start in tqdm(range(0, len(order), _BATCH), desc=title, unit="batch"):
        chosen = order[start : start + _BATCH]
        inputs = tokenizer.apply_chat_template(
            [chat(prompts[index], system_prompt) for index in chosen],
            add_generation_prompt=True,
            return_dict=True,
            return_tensors="pt",
            padding=True,
        ).to(model.device)
        output = model.generate(
            **inputs, max_new_tokens=new_tokens, do_sample=False, pad_token_id=tokenizer.pad_token_id
        )
        texts = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        for index, text in zip(chosen, texts, strict=True):
            answers[index] = text.strip()
    model.train(was_training)
    return answers


def chat(prompt: str, system_prompt: str | None = None) -> list[dict[str, str]]:
    """Returns a prompt as messages."""
    system = [] if system_prompt is None else [{"role": "system", "content": system_prompt}]
    return [*system, {"role": "user", "content": prompt}]
