# SPDX-License-Identifier: Apache-2.0
"""What is asked of vLLM; a stand-in for it, since it needs a GPU."""

import sys
import types
from typing import ClassVar

import pytest
from transformers import AutoTokenizer

from hf_ckt.evaluation.measuring.answers import chat
from hf_ckt.evaluation.measuring.models import EvaluatedModel, Loading
from hf_ckt.evaluation.measuring.vllm_engine import vllm_generate, vllm_is_usable


class _LLM:
    made: ClassVar[list] = []

    def __init__(self, **kwargs):
        _LLM.made.append(kwargs)

    def generate(self, prompts, sampling, lora_request=None, use_tqdm=True):
        self.asked = prompts
        text = f" {len(prompts)} at {sampling.temperature} by {lora_request and lora_request.lora_int_id} "
        return [types.SimpleNamespace(outputs=[types.SimpleNamespace(text=text)]) for _ in prompts]


@pytest.fixture
def fake_vllm(monkeypatch):
    _LLM.made = []
    vllm, lora, request = (types.ModuleType(name) for name in ("vllm", "vllm.lora", "vllm.lora.request"))
    vllm.LLM = _LLM
    vllm.SamplingParams = lambda **kwargs: types.SimpleNamespace(**kwargs)
    request.LoRARequest = lambda name, number, path: types.SimpleNamespace(lora_int_id=number, path=path)
    for module in (vllm, lora, request):
        monkeypatch.setitem(sys.modules, module.__name__, module)


def test_one_engine_serves_a_backbone_and_its_adapters(fake_vllm, tiny_model_dir):
    """An engine for each adapter would load the backbone anew, and an adapter's number taken twice is the wrong one."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    generate = vllm_generate(Loading(dtype="float32"), tokenizer, None)
    answers = [
        generate(EvaluatedModel(name, "org/model", adapter), ["hello", "bread"], 8)
        for name, adapter in (("base", None), ("a", "org/a"), ("b", "org/b"), ("a", "org/a"))
    ]
    assert [found[0] for found in answers] == [f"2 at 0.0 by {number}" for number in (None, 1, 2, 1)]
    assert len(_LLM.made) == 1 and _LLM.made[0]["trust_remote_code"] is False


def test_prompts_are_rendered_as_for_transformers(fake_vllm, tiny_model_dir, monkeypatch):
    """Another template, or its first token twice, and the two engines would answer different questions."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    asked = []
    original = _LLM.generate
    monkeypatch.setattr(
        _LLM, "generate", lambda self, prompts, *a, **k: asked.extend(prompts) or original(self, prompts, *a, **k)
    )
    vllm_generate(Loading(dtype="float32"), tokenizer, "be brief")(EvaluatedModel("base", "org/model"), ["hello"], 8)
    expected = tokenizer.apply_chat_template(chat("hello", "be brief"), add_generation_prompt=True, return_dict=True)
    assert asked == [{"prompt_token_ids": expected["input_ids"]}]


def test_eight_bits_raise(tiny_model_dir):
    """vLLM would load the base unquantized, and the figures would be another model's."""
    with pytest.raises(ValueError, match="--load-in-8bit"):
        vllm_generate(Loading(quantization="int8"), None, None)


def test_vllm_is_not_used_without_a_gpu():
    """`auto` on a laptop must not try to start an engine that needs CUDA."""
    import torch

    if not torch.cuda.is_available():
        assert vllm_is_usable() is False
