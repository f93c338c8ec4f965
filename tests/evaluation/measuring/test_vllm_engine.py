# SPDX-License-Identifier: Apache-2.0
"""What is asked of vLLM; a stand-in for it, since it needs a GPU."""

import sys
import types
from typing import ClassVar

import pytest
from transformers import AutoTokenizer

from hf_ckt.evaluation.measuring.answers import Answer, answers_by
from hf_ckt.evaluation.measuring.chat_format import ChatFormat, chat
from hf_ckt.evaluation.measuring.models import EvaluatedModel, Loading
from hf_ckt.evaluation.measuring.vllm_engine import vllm_engine, vllm_is_usable


class _LLM:
    made: ClassVar[list] = []
    asked: ClassVar[list] = []
    written: ClassVar[dict] = {}  # by the last id of a row

    def __init__(self, **kwargs):
        _LLM.made.append(kwargs)

    def generate(self, prompts, sampling, lora_request=None, use_tqdm=True):
        rows = [prompt["prompt_token_ids"] for prompt in prompts]
        _LLM.asked.append((rows, vars(sampling), lora_request and lora_request.lora_int_id))
        outputs = [types.SimpleNamespace(token_ids=_LLM.written.get(row[-1], (5, 2))) for row in rows]
        return [types.SimpleNamespace(outputs=[output]) for output in outputs]


@pytest.fixture
def fake_vllm(monkeypatch):
    _LLM.made, _LLM.asked, _LLM.written = [], [], {}
    vllm, lora, request = (types.ModuleType(name) for name in ("vllm", "vllm.lora", "vllm.lora.request"))
    vllm.LLM = _LLM
    vllm.SamplingParams = lambda **kwargs: types.SimpleNamespace(**kwargs)
    request.LoRARequest = lambda name, number, path: types.SimpleNamespace(lora_int_id=number, path=path)
    for module in (vllm, lora, request):
        monkeypatch.setitem(sys.modules, module.__name__, module)


def test_one_engine_serves_a_backbone_and_its_adapters(fake_vllm, tiny_model_dir):
    """An engine for each adapter would load the backbone anew, and an adapter's number taken twice is the wrong one."""
    asked, engine = ChatFormat(AutoTokenizer.from_pretrained(tiny_model_dir)), vllm_engine(Loading(dtype="float32"))
    for name, adapter in (("base", None), ("a", "org/a"), ("b", "org/b"), ("a", "org/a")):
        found = answers_by(
            engine(EvaluatedModel(name, str(tiny_model_dir), adapter), asked), asked, ["hello", "bread"], 8
        )
        assert found == [Answer(asked.tokenizer.decode([5]).strip())] * 2  # without the end token
    assert [number for _, _, number in _LLM.asked] == [None, 1, 2, 1]
    assert {sampling["temperature"] for _, sampling, _ in _LLM.asked} == {0.0}
    assert len(_LLM.made) == 1 and _LLM.made[0]["trust_remote_code"] is False


def test_prompts_are_rendered_as_for_transformers(fake_vllm, tiny_model_dir):
    """Another template, or its first token twice, and the two engines would answer different questions."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    asked = ChatFormat(tokenizer, "be brief")
    write = vllm_engine(Loading(dtype="float32"))(EvaluatedModel("base", str(tiny_model_dir)), asked)
    answers_by(write, asked, ["hello"], 8)
    expected = tokenizer.apply_chat_template(chat("hello", "be brief"), add_generation_prompt=True, return_dict=True)
    assert _LLM.asked[0][0] == [expected["input_ids"]]


def test_thoughts_end_as_with_transformers(fake_vllm, tiny_model_dir):
    """One limit for both would leave no answer behind a long thought, and a skipped marker none to part them by."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    tokenizer.chat_template = "{#- <think> </think> -#}" + tokenizer.chat_template
    asked = ChatFormat(tokenizer, thinking_tokens=50)

    def ids(text):
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    _LLM.written = {asked.ids(["hello"])[0][-1]: ids("<think>hm</think>"), ids("</think>")[-1]: [*ids(" Sure."), 2]}
    write = vllm_engine(Loading(dtype="float32"))(EvaluatedModel("base", str(tiny_model_dir)), asked)
    assert answers_by(write, asked, ["hello"], 8) == [Answer("Sure.", "hm")]
    (_, first, _), (rows, second, _) = _LLM.asked
    assert first["max_tokens"] == 50 and first["stop"] == ["</think>"] and first["include_stop_str_in_output"]
    assert second["max_tokens"] == 8 and "stop" not in second
    assert tokenizer.decode(rows[0]).endswith("<think>hm</think>") and first["stop_token_ids"] == [2]


def test_eight_bits_raise(tiny_model_dir):
    """vLLM would load the base unquantized, and the figures would be another model's."""
    with pytest.raises(ValueError, match="--load-in-8bit"):
        vllm_engine(Loading(quantization="int8"))


def test_vllm_is_not_used_without_a_gpu():
    """`auto` on a laptop must not try to start an engine that needs CUDA."""
    import torch

    if not torch.cuda.is_available():
        assert vllm_is_usable() is False
