# SPDX-License-Identifier: Apache-2.0
"""Greedy answers by vLLM, where it is installed beside a GPU."""

import importlib.util
from collections.abc import Callable
from typing import Any

from .answers import chat
from .models import EvaluatedModel, Loading

# The measured model stays loaded beside it, for the suites that generate nothing.
_SHARE_OF_MEMORY = 0.5


def vllm_is_usable() -> bool:
    """Tells whether vLLM is installed and there is a CUDA device for it."""
    if importlib.util.find_spec("vllm") is None:
        return False
    import torch

    return torch.cuda.is_available()


def vllm_generate(
    loading: Loading, tokenizer: Any, system_prompt: str | None
) -> Callable[[EvaluatedModel, list[str], int], list[str]]:
    """
    Returns a function that answers a batch of prompts with an entry's model. One engine a backbone, adapters by request.

    Args:
        loading ([`Loading`]):
            dtype, quantization and trust, as for transformers. NF4 is taken, 8-bit is not.
        tokenizer (`PreTrainedTokenizerBase`):
            Renders the chat template, so both engines read the same tokens.
        system_prompt (`str`, *optional*):
            Put before each prompt.

    Raises:
        ValueError: If the backbone is to be loaded in 8 bits, which vLLM's bitsandbytes loader does not do.
    """
    if loading.quantization == "int8":
        raise ValueError("--load-in-8bit: vLLM quantizes to 4 bits only. Use --engine transformers.")
    engines: dict[str, Any] = {}
    adapters: dict[str, int] = {}

    def engine(entry: EvaluatedModel) -> Any:
        from vllm import LLM

        if entry.model not in engines:
            engines.clear()  # one backbone at a time
            engines[entry.model] = LLM(
                model=entry.model,
                dtype=loading.kwargs()["dtype"],
                quantization="bitsandbytes" if loading.quantization == "nf4" else None,
                trust_remote_code=loading.trust_remote_code,
                enable_lora=True,
                max_lora_rank=256,
                gpu_memory_utilization=_SHARE_OF_MEMORY,
                seed=0,
            )
        return engines[entry.model]

    def generate(entry: EvaluatedModel, prompts: list[str], new_tokens: int) -> list[str]:
        from vllm import SamplingParams
        from vllm.lora.request import LoRARequest

        request = None
        if entry.adapter is not None:
            number = adapters.setdefault(entry.adapter, len(adapters) + 1)
            request = LoRARequest(entry.name, number, entry.adapter)
        rendered = [
            {
                "prompt_token_ids": tokenizer.apply_chat_template(
                    chat(prompt, system_prompt), add_generation_prompt=True, return_dict=True
                )["input_ids"]
            }
            for prompt in prompts
        ]
        outputs = engine(entry).generate(
            rendered, SamplingParams(temperature=0.0, max_tokens=new_tokens), lora_request=request, use_tqdm=False
        )
        return [output.outputs[0].text.strip() for output in outputs]

    return generate
