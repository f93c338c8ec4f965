# SPDX-License-Identifier: Apache-2.0
"""Greedy means the token of highest logit, whatever a model's own generation configuration says."""

import copy
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoTokenizer, GenerationConfig

from hf_ckt.data.prompt_sets import EvalPrompt
from hf_ckt.evaluation.measuring.answers import answer_batch, greedy_answers
from hf_ckt.evaluation.measuring.chat_format import chat
from hf_ckt.evaluation.measuring.generation import (
    adapter_generation,
    decoding,
    generation_facts,
    own_generation,
    stated,
)
from hf_ckt.evaluation.operating_point import with_bias
from hf_ckt.evaluation.run import Evaluation, evaluate
from tests.evaluation.measuring.saved_adapters import save_adapter
from tests.trainers import load

PROMPTS = ["How do I bake bread?", "Kill", "What is the best way to bake bread quickly?", "Help me"]
NEW = 12
# Each one changes what `generate` gives, or keeps it from giving rows of ids.
OWN = [
    {"repetition_penalty": 5.0},
    {"num_beams": 4},
    {"num_beams": 3, "num_return_sequences": 3, "length_penalty": 2.0, "early_stopping": True},
    {"no_repeat_ngram_size": 1},
    {"return_dict_in_generate": True, "output_scores": True, "output_logits": True},
    {"do_sample": True, "temperature": 5.0, "top_k": 3},
    {"min_new_tokens": 12},
    {"min_length": 100},
    {"max_length": 3},
    {"max_time": 1e-9},
    {"suppress_tokens": list(range(3, 100))},
    {"begin_suppress_tokens": list(range(3, 100))},
    {"bad_words_ids": [[number] for number in range(3, 100)]},
    {"sequence_bias": {(5,): 50.0}},
    {"forced_bos_token_id": 7},
    {"forced_eos_token_id": 7},
    {"exponential_decay_length_penalty": (1, 9.0)},
    {"guidance_scale": 5.0},
    {"stop_strings": ["e"]},
    {"encoder_repetition_penalty": 3.0},
    {"renormalize_logits": True, "remove_invalid_values": True},
    {"cache_implementation": "static"},
    {"prompt_lookup_num_tokens": 2},
]
IDS = ["+".join(own) for own in OWN]


@pytest.fixture(scope="module")
def tokenizer(tiny_model_dir):
    return AutoTokenizer.from_pretrained(tiny_model_dir)


def _highest_logits(model, tokenizer, prompt):
    """An answer by hand: one prompt, no cache, the highest logit each time, until an end token."""
    ids = tokenizer.apply_chat_template(
        chat(prompt), add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )["input_ids"]
    length = ids.shape[1]
    with torch.no_grad():
        for _ in range(NEW):
            following = model(input_ids=ids).logits[:, -1].argmax(-1, keepdim=True)
            ids = torch.cat([ids, following], 1)
            if following.item() == tokenizer.eos_token_id:
                break
    return tokenizer.decode(ids[0, length:], skip_special_tokens=True).strip()


@pytest.mark.parametrize("wrapped", [False, True], ids=["model", "adapter"])
@pytest.mark.parametrize("own", OWN, ids=IDS)
def test_greedy_answers_ignore_the_models_own_configuration(own, wrapped, tiny_model_dir, tokenizer):
    """Results that say greedy and hold a penalty's or a beam's answers compare settings of models and not the models."""
    model = load(tiny_model_dir).eval()
    for name, value in own.items():
        setattr(model.generation_config, name, value)
    before = copy.deepcopy(model.generation_config)
    if wrapped:
        model = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    expected = [_highest_logits(model, tokenizer, prompt) for prompt in PROMPTS]
    assert greedy_answers(model, tokenizer, PROMPTS, new_tokens=NEW) == expected
    assert model.generation_config.to_dict() == before.to_dict()


@pytest.mark.parametrize("own", OWN[:8], ids=IDS[:8])
def test_kept_configuration_is_what_generate_does_with_it(own, tiny_model_dir, tokenizer):
    """An option that keeps the configuration in name alone would publish greedy answers as the model's usual ones."""
    model = load(tiny_model_dir).eval()
    for name, value in own.items():
        setattr(model.generation_config, name, value)
    found = greedy_answers(model, tokenizer, PROMPTS[:1], new_tokens=NEW, keep_generation_config=True)
    inputs = tokenizer.apply_chat_template(
        [chat(PROMPTS[0])], add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    torch.manual_seed(0)
    output = model.generate(**inputs, max_new_tokens=NEW, num_return_sequences=1)
    ids = output if isinstance(output, torch.Tensor) else output.sequences
    assert found == [tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()]


def test_sampled_answers_come_again_and_leave_the_generator(tiny_model_dir, tokenizer):
    """A run that goes on after a kill would sample other answers, and an evaluation would change the training after it."""
    model = load(tiny_model_dir).eval()
    model.generation_config.do_sample, model.generation_config.temperature = True, 3.0
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    told = [answer_batch(model, tokenizer, PROMPTS, new_tokens=NEW, keep_generation_config=True) for _ in range(2)]
    assert told[0] == told[1] != answer_batch(model, tokenizer, PROMPTS, new_tokens=NEW)
    assert torch.equal(torch.rand(3), expected)


def test_end_token_of_the_tokenizer_ends_an_answer(tiny_model_dir, tokenizer):
    """A chat template's end of turn that the base never knew: each answer would run on into turns that nobody asked for."""
    model = load(tiny_model_dir).eval()
    inputs = tokenizer.apply_chat_template(
        [chat(PROMPTS[0])], add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    ids = model.generate(**inputs, max_new_tokens=NEW)[0, inputs["input_ids"].shape[1] :].tolist()
    end = next(number for number in ids[3:] if number not in ids[:3])
    other = copy.deepcopy(tokenizer)
    other.eos_token = tokenizer.convert_ids_to_tokens(end)
    cut = answer_batch(model, other, PROMPTS[:1], new_tokens=NEW)
    assert [answer.text for answer in cut] == [
        tokenizer.decode(ids[: ids.index(end)], skip_special_tokens=True).strip()
    ]
    assert cut != answer_batch(model, tokenizer, PROMPTS[:1], new_tokens=NEW)


def test_configuration_read_from_files_is_the_loaded_models(tiny_model_dir, tmp_path):
    """What results state would be another configuration than the one that was used."""
    model = load(tiny_model_dir)
    model.generation_config.repetition_penalty = 1.3
    model.save_pretrained(tmp_path)
    assert stated(own_generation(str(tmp_path))) == stated(load(tmp_path).generation_config)
    (tmp_path / "generation_config.json").unlink()
    assert stated(own_generation(str(tmp_path))) == stated(load(tmp_path).generation_config)


def test_what_is_stated_is_what_is_used(tiny_model_dir, tokenizer, tmp_path):
    """A penalty that was in force and is not stated, or that is stated and was not."""
    model = load(tiny_model_dir)
    set_by_it = {"repetition_penalty": 1.3, "do_sample": True, "temperature": 0.6}
    model.generation_config = GenerationConfig(eos_token_id=[9, 2], **set_by_it)
    model.save_pretrained(tmp_path)
    greedy, kept = (generation_facts(str(tmp_path), tokenizer, keep_own=keep) for keep in (False, True))
    shared = {"eos_token_id": [9, 2], "pad_token_id": tokenizer.pad_token_id}
    assert greedy == {**shared, "do_sample": False, "num_beams": 1, "set_aside": set_by_it}
    # transformers' own numbers where a configuration samples and leaves them open
    assert kept == {**shared, **set_by_it, "top_k": 50, "top_p": 1.0, "set_aside": {}}


def test_adapter_answers_with_the_bias_that_lies_beside_it(tiny_model_dir, tokenizer, tmp_path):
    """A published operating point that is measured without its bias, or whose bias the base is measured with too."""
    adapter = save_adapter(tiny_model_dir, tmp_path / "biased")
    assert adapter_generation(adapter) is None
    biased = with_bias(decoding(load(tiny_model_dir).generation_config, tokenizer), 9, 1000.0)
    biased.save_pretrained(adapter)
    assert stated(adapter_generation(adapter)) == stated(biased)
    prompts = [EvalPrompt(f"mine/{n}", "mine", "harmful", "", text) for n, text in enumerate(PROMPTS)]
    options = Evaluation(
        str(tiny_model_dir), adapter, only=("direct",), harmful=prompts, benign=prompts[:1], new_tokens=3
    )
    word, answers, generation = tokenizer.decode([9] * 3).strip(), {}, {}
    for keep in (False, True):
        found = evaluate(replace(options, keep_generation_config=keep), tmp_path / str(keep))["models"]
        rows = pq.read_table(tmp_path / str(keep) / "completions.parquet").to_pylist()
        answers[keep] = {name: {row["answer"] for row in rows if row["model"] == name} for name in found}
        generation[keep] = {name: model["generation"] for name, model in found.items()}
    assert {*answers[True]} == {"base", "adapter"} and answers[True]["adapter"] == {word}
    assert word not in answers[True]["base"] | answers[False]["base"] | answers[False]["adapter"]
    bias = {"sequence_bias": [[[9], 1000.0]]}
    assert bias.items() <= generation[True]["adapter"].items() and bias == generation[False]["adapter"]["set_aside"]
    assert "sequence_bias" not in str([generation[True]["base"], generation[False]["base"]])


def test_adapters_configuration_without_end_tokens_leaves_those_of_its_base(tokenizer):
    """Where only the base's says how a turn ends, answers would run on into turns that nobody asked for."""
    own, beside = GenerationConfig(bos_token_id=1, eos_token_id=[7, 9]), GenerationConfig(repetition_penalty=1.3)
    ends = [7, 9, tokenizer.eos_token_id]
    for keep in (False, True):
        config = decoding(own, tokenizer, beside, keep_own=keep)
        assert (config.bos_token_id, config.eos_token_id) == (1, ends)
        assert config.repetition_penalty == (1.3 if keep else None)
    beside.eos_token_id = 8
    assert decoding(own, tokenizer, beside).eos_token_id == [8, tokenizer.eos_token_id]


def test_adapter_that_cannot_be_asked_for_its_configuration_is_not_one_without(tmp_path, monkeypatch):
    """Offline, an operating point would be measured as the base decodes, and nobody would know."""
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert adapter_generation("nobody/adapter") is None
    with pytest.raises(OSError, match="nobody/adapter"):
        adapter_generation("nobody/adapter", required=True)


def test_settings_that_are_objects_are_stated_with_what_they_hold():
    """Two watermarks would be one in the results and in the names of kept answers."""
    weak, strong = (
        stated(GenerationConfig(watermarking_config={"bias": bias, "seeding_scheme": "lefthash"}))
        for bias in (1.0, 9.0)
    )
    assert (weak["watermarking_config"]["bias"], strong["watermarking_config"]["bias"]) == (1.0, 9.0)
