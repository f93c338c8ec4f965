# SPDX-License-Identifier: Apache-2.0
"""Greedy answers by vLLM, where it is installed beside a GPU."""

import importlib.util
from collections.abc import Callable
from typing import Any

from .answers import Write, Written, written
from .chat_format import ChatFormat
from .generation import adapter_generation, decoding, own_generation
from .models import EvaluatedModel, Loading

# The measured model stays loaded beside it, for the suites that generate nothing.
_SHARE_OF_MEMORY = 0.5


def vllm_is_usable() -> bool:
    """Tells whether vLLM is installed and there is a CUDA device for it."""
    if importlib.util.find_spec("vllm") is None:
        return False
    import torch

    return torch.cuda.is_available()


def vllm_engine(loading: Loading) -> Callable[[EvaluatedModel, ChatFormat], Write]:
    """
    Returns a function that gives what writes for an entry's model. One engine a backbone, adapters by request.

    Args:
        loading ([`Loading`]):
            dtype, quantization and trust, as for transformers. NF4 is taken, 8-bit is not.

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

    def writer(entry: EvaluatedModel, asked: ChatFormat) -> Write:
        own = own_generation(entry.model, loading.trust_remote_code)
        config = decoding(own, asked.tokenizer, adapter_generation(entry.adapter))

        def write(rows: list[list[int]], answer_tokens: int, thinking_tokens: int | None) -> list[Written]:
            from vllm import SamplingParams
            from vllm.lora.request import LoRARequest

            request = None
            if entry.adapter is not None:
                number = adapters.setdefault(entry.adapter, len(adapters) + 1)
                request = LoRARequest(entry.name, number, entry.adapter)
            options: dict[str, Any] = {"temperature": 0.0, "max_tokens": answer_tokens}
            # Besides the end tokens that vLLM finds itself, the one that an adapter's tokenizer brings.
            options["stop_token_ids"] = list(config.eos_token_id or ())
            if thinking_tokens is not None and asked.reasoning.declared:
                options["max_tokens"] = max(answer_tokens, thinking_tokens)
                options |= {"stop": [asked.reasoning.closes], "include_stop_str_in_output": True}
                options["skip_special_tokens"] = False  # the end of a thought may be one
            outputs = engine(entry).generate(
                [{"prompt_token_ids": row} for row in rows],
                SamplingParams(**options),
                lora_request=request,
                use_tqdm=False,
            )
            return [written(list(output.outputs[0].token_ids), config.eos_token_id or ()) for output in outputs]

        return write

    return writer
