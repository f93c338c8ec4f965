# SPDX-License-Identifier: Apache-2.0
"""Adapters on a shared backbone: each answers as if it were alone, and one that does not fit is not scored at all."""

import itertools
import json

import pytest
import torch
from peft import (
    IA3Config,
    LoraConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    TrainableTokensConfig,
    get_peft_model,
)
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from hf_ckt.evaluation.measuring.backbones import Backbones
from hf_ckt.evaluation.measuring.models import EvaluatedModel, Loading, entries
from tests.evaluation.measuring.saved_adapters import save_adapter, save_model
from tests.tiny_models import save_tiny_llama
from tests.trainers import load

IDS = torch.tensor([[1, 5, 9, 30, 31]])


def _logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


def test_each_entry_is_itself_on_a_shared_backbone(tiny_model_dir, adapters):
    """An adapter left on, or the wrong one, would score under another's name."""
    listed, _ = entries(str(tiny_model_dir), adapters[0], [adapters[1]])
    backbones = Backbones(Loading(dtype="float32"))
    alone = {"base": _logits(load(tiny_model_dir).eval())}
    for name, adapter in (("adapter", adapters[0]), ("second", adapters[1])):
        alone[name] = _logits(PeftModel.from_pretrained(load(tiny_model_dir), adapter).eval())
    assert not torch.allclose(alone["adapter"], alone["second"])
    for entry in (*listed, *reversed(listed)):
        with backbones.active(entry) as model:
            torch.testing.assert_close(_logits(model), alone[entry.name], rtol=0, atol=1e-6)
    assert not model.training


def test_each_entry_is_itself_on_a_4bit_backbone_that_has_answered(tmp_path_factory, monkeypatch):
    """On CPUs with AVX512-BF16, bitsandbytes repacks weights at a first pass, and peft's load of a next adapter breaks them."""
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: True)
    # Rows shorter than a block are not repacked.
    folder = save_tiny_llama(tmp_path_factory.mktemp("model"), hidden_size=64)
    paths = [save_adapter(folder, tmp_path_factory.mktemp("adapter"), seed) for seed in (0, 1)]
    listed, _ = entries(str(folder), paths[0], [paths[1]])
    alone = {}
    for entry in listed:
        with Backbones(Loading(quantization="nf4")).active(entry) as model:
            alone[entry.name] = _logits(model)
    assert not any(torch.allclose(*pair) for pair in itertools.combinations(alone.values(), 2))
    backbones = Backbones(Loading(quantization="nf4"))
    for entry in listed:
        with backbones.active(entry) as model:
            torch.testing.assert_close(_logits(model), alone[entry.name], rtol=0, atol=1e-6)


def test_adapter_of_another_base_raises(tiny_model_dir, tmp_path_factory):
    """A traceback of shapes from the depths of torch does not say what to do."""
    wide = save_tiny_llama(tmp_path_factory.mktemp("wide"), hidden_size=64)
    other = save_adapter(wide, tmp_path_factory.mktemp("other"), 0)
    with pytest.raises(ValueError, match="was trained on another base"):
        with Backbones(Loading(dtype="float32")).active(EvaluatedModel("adapter", str(tiny_model_dir), other)):
            pass


def test_adapter_in_a_pickle_raises(tiny_model_dir, tmp_path):
    """peft reads a pickle when there are no safetensors, and a pickle may run code."""
    model = get_peft_model(load(tiny_model_dir), LoraConfig(r=4, target_modules="all-linear"))
    model.save_pretrained(tmp_path)
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
    with pytest.raises(ValueError, match=r"has no adapter_model\.safetensors"):
        with Backbones(Loading(dtype="float32")).active(EvaluatedModel("adapter", str(tiny_model_dir), str(tmp_path))):
            pass


def test_two_backbones_stay_and_a_third_takes_the_oldest_place(tiny_model_dir, tmp_path, monkeypatch):
    """A teacher that pushes the student out of memory is loaded from disk again for every batch."""
    paths = [str(tiny_model_dir), *(str(save_tiny_llama(tmp_path / name, seed=9)) for name in ("b", "c"))]
    loads, original = [], AutoModelForCausalLM.from_pretrained
    monkeypatch.setattr(
        AutoModelForCausalLM, "from_pretrained", lambda path, **kwargs: loads.append(path) or original(path, **kwargs)
    )
    backbones = Backbones(Loading(dtype="float32"))
    first, second, third = paths
    for path in (first, second, first, second, first, third, first, second):
        with backbones.active(EvaluatedModel("x", path)):
            pass
    assert loads == [first, second, third, second]


def _drop(folder, keys):
    """Takes weights out of an adapter's file."""
    weights = load_file(f"{folder}/adapter_model.safetensors")
    chosen = [key for key in weights if any(part in key for part in keys)]
    assert chosen
    save_file(
        {key: value for key, value in weights.items() if key not in chosen}, f"{folder}/adapter_model.safetensors"
    )


def _rename(folder, before, after):
    weights = load_file(f"{folder}/adapter_model.safetensors")
    assert any(before in key for key in weights)
    renamed = {key.replace(before, after): value for key, value in weights.items()}
    save_file(renamed, f"{folder}/adapter_model.safetensors")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: _rename(folder, "base_model.model.model.", "base_model.model.transformer."),
        lambda folder: _rename(folder, "base_model.model.", ""),
        lambda folder: _rename(folder, "layers.1.", "layers.7."),
        lambda folder: _rename(folder, "lora_A", "lora_X"),
        lambda folder: _drop(folder, ["layers.1.self_attn.q_proj"]),
        lambda folder: _drop(folder, ["lora_B"]),
        lambda folder: _drop(folder, ["lora"]),
    ],
    ids=["other names", "no prefix", "other layers", "other method", "a layer less", "half of it", "nothing"],
)
@pytest.mark.parametrize("place", ["first", "second"])
def test_adapter_of_which_a_key_does_not_load_raises(place, spoil, tiny_model_dir, adapters, tmp_path):
    """peft only warns: the base would be scored under the adapter's name, and be found as safe as the base is."""
    broken = save_adapter(tiny_model_dir, tmp_path / "broken", 4)
    spoil(broken)
    backbones = Backbones(Loading(dtype="float32"))
    if place == "second":
        with backbones.active(EvaluatedModel("adapter", str(tiny_model_dir), adapters[0])):
            pass
    with pytest.raises(ValueError, match=r"^broken: .*(weights have no place|was trained on another base)") as caught:
        with backbones.active(EvaluatedModel("adapter", str(tiny_model_dir), broken)):
            pass
    assert "\n" not in str(caught.value)
    with backbones.active(EvaluatedModel("base", str(tiny_model_dir))) as model:  # and nothing of it is left behind
        torch.testing.assert_close(_logits(model), _logits(load(tiny_model_dir).eval()), rtol=0, atol=1e-6)


def test_adapter_of_a_deeper_base_raises(tiny_model_dir, tmp_path):
    """Its upper half has no layer to go to, and the lower half alone is no adapter that anybody trained."""
    deep = save_tiny_llama(tmp_path / "deep", num_hidden_layers=3)
    adapter = save_adapter(deep, tmp_path / "adapter")
    with pytest.raises(ValueError, match=r"[24] of its weights have no place"):
        with Backbones(Loading(dtype="float32")).active(EvaluatedModel("adapter", str(tiny_model_dir), adapter)):
            pass


def _grown(model_dir, rows):
    torch.manual_seed(7)
    model = load(model_dir)
    model.resize_token_embeddings(rows)
    return model


def _with_biases(model):
    for name, weight in model.named_parameters():
        if name.endswith(".bias"):
            weight.data.normal_()


def _changing(kind, model_dir, folder):
    """An adapter that leaves the base's own weights other than they were."""
    if kind == "more tokens":
        return save_model(get_peft_model(_grown(model_dir, 210), LoraConfig(r=4, init_lora_weights=False)), folder)
    if kind == "more tokens, embeddings trained":
        config = LoraConfig(
            r=4, init_lora_weights=False, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"]
        )
        return save_model(get_peft_model(_grown(model_dir, 210), config), folder)
    if kind == "more tokens, some trained":
        config = LoraConfig(r=4, target_modules=["q_proj"], trainable_token_indices={"embed_tokens": [200, 201]})
        return save_model(get_peft_model(_grown(model_dir, 256), config), folder)
    if kind == "more tokens, LoRA on embeddings":
        config = LoraConfig(
            r=4, init_lora_weights=False, target_modules=["q_proj", "embed_tokens"], modules_to_save=["lm_head"]
        )
        return save_model(get_peft_model(_grown(model_dir, 202), config), folder)
    if kind == "biases":
        return save_adapter(model_dir, folder, bias="all", change=_with_biases, target_modules=["q_proj", "o_proj"])
    if kind == "rewritten base":
        return save_adapter(model_dir, folder, init_lora_weights="pissa", target_modules=["q_proj"])
    if kind == "IA3":
        config = IA3Config(
            target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"], init_ia3_weights=False
        )
        return save_model(get_peft_model(load(model_dir), config), folder)
    if kind == "tokens alone":
        model = get_peft_model(load(model_dir), TrainableTokensConfig(token_indices=[5, 9], init_weights=False))
        return save_model(model, folder)
    if kind == "prompt tuning":
        model = get_peft_model(load(model_dir), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
        return save_model(model, folder)
    assert kind == "prefix tuning"
    return save_model(
        get_peft_model(load(model_dir), PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)), folder
    )


KINDS = [
    "more tokens",
    "more tokens, embeddings trained",
    "more tokens, some trained",
    "more tokens, LoRA on embeddings",
    "biases",
    "rewritten base",
    "IA3",
    "tokens alone",
    "prompt tuning",
    "prefix tuning",
]


@pytest.fixture(scope="module")
def biased_dir(tmp_path_factory):
    """A base with biases: those are what `bias="all"` trains in place."""
    return save_tiny_llama(tmp_path_factory.mktemp("biased"), attention_bias=True)


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_that_change_the_base_leave_the_others_alone(kind, biased_dir, tmp_path):
    """On what one adapter wrote into the shared base, the base itself and every other adapter are other models."""
    plain, special = save_adapter(biased_dir, tmp_path / "plain", 3), _changing(kind, biased_dir, tmp_path / "special")
    alone = {"base": _logits(load(biased_dir).eval())}
    alone["plain"] = _logits(PeftModel.from_pretrained(load(biased_dir), plain).eval())
    rows = {"more tokens, some trained": 256, "more tokens, LoRA on embeddings": 202}.get(kind, 210)
    host = _grown(biased_dir, rows) if kind.startswith("more tokens") else load(biased_dir)
    alone["special"] = _logits(PeftModel.from_pretrained(host, special).eval())
    assert not torch.equal(alone["special"], alone["base"])
    backbones = Backbones(Loading(dtype="float32"))
    found = {
        "base": EvaluatedModel("base", str(biased_dir)),
        "plain": EvaluatedModel("plain", str(biased_dir), plain),
        "special": EvaluatedModel("special", str(biased_dir), special),
    }
    for name in ("base", "special", "base", "plain", "special", "plain", "base", "special"):
        with backbones.active(found[name]) as model:
            difference = (_logits(model) - alone[name]).abs().max()
            assert difference <= 1e-5, (name, difference)
        assert len(backbones._loaded) <= 2


def test_grown_adapter_without_its_embeddings_raises(tiny_model_dir, tmp_path):
    """Random rows for the tokens that a chat template is made of."""
    # Of embeddings under LoRA, peft 0.21 saves the grown base and not the head.
    config = LoraConfig(r=4, init_lora_weights=False, target_modules=["q_proj", "embed_tokens"])
    adapter = save_model(get_peft_model(_grown(tiny_model_dir, 202), config), tmp_path / "adapter")
    with pytest.raises(ValueError, match=r"^adapter: was trained with 202 tokens .* lacks the output embeddings"):
        with Backbones(Loading(dtype="float32")).active(EvaluatedModel("adapter", str(tiny_model_dir), adapter)):
            pass

    from hf_ckt.evaluation.measuring.adapters import require_embedded

    with pytest.raises(ValueError, match=r"^mine: its tokenizer adds 2 tokens \(from id 200\)"):
        require_embedded(load(tiny_model_dir), {200, 201}, "mine")
    require_embedded(load(tiny_model_dir), {198, 199}, "mine")  # into rows that the base has spare


def test_base_is_told_by_weights_and_else_by_name(tiny_model_dir, tmp_path, adapters, monkeypatch):
    """A base of the same shape loads silently; a copy of the right one under another path is no other base."""
    same, copied = tmp_path / "here" / "base", tmp_path / "there" / "base"
    save_tiny_llama(same, seed=3)
    save_tiny_llama(copied, seed=3)
    other = save_tiny_llama(tmp_path / "elsewhere" / "base", seed=4)
    adapter = save_adapter(same, tmp_path / "adapter")
    entries(str(copied), adapter)
    for option, arguments in {
        "--adapter": {"adapter": adapter},
        "--compare": {"compare": [adapters[0], adapter]},
        "--teacher": {"teacher": adapter},
    }.items():
        model = tiny_model_dir if option == "--compare" else other
        with pytest.raises(ValueError, match=rf"^{option}: 'adapter' was trained on 'base', .*--allow-other-base"):
            entries(str(model), **arguments)
        entries(str(model), **arguments, allow_other_base=True)


@pytest.mark.parametrize(
    ("recorded", "base", "same"),
    [
        ("org/base", "org/base", True),
        ("Org/Base", "org/base", True),
        ("org/base", "other/base", False),
        ("/of/another/machine/base", "/mnt/base", True),
        ("/of/another/machine/base", "org/base", True),
        ("org/base", "/mnt/models/base/", True),
        ("C:\\models\\base", "/mnt/base", True),
        ("/of/another/machine/base", "/mnt/base-instruct", False),
        ("org/base", "/mnt/other", False),
    ],
)
def test_bases_that_are_not_here_are_told_by_name(recorded, base, same):
    """An adapter that was trained on another machine records a path that means nothing here."""
    from hf_ckt.evaluation.measuring.adapters import is_same_base

    assert is_same_base(recorded, base) is same


def test_adapter_that_records_no_base_is_taken(tiny_model_dir, tmp_path):
    """There is nothing to compare; its weights still must all load."""
    adapter = save_adapter(tiny_model_dir, tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "base_model_name_or_path": None}))
    listed, _ = entries(str(tiny_model_dir), adapter)
    with Backbones(Loading(dtype="float32")).active(listed[1]):
        pass


@pytest.mark.parametrize("kind", ["prompt tuning", "prefix tuning", "IA3"])
def test_answers_on_a_backbone_are_those_of_the_model_alone(kind, tiny_model_dir, tmp_path):
    """peft puts its own `generate` in front of the base's: switched off, it may still be asked."""
    from transformers import AutoTokenizer

    from hf_ckt.evaluation.measuring.answers import greedy_answers

    adapter, tokenizer = (
        _changing(kind, tiny_model_dir, tmp_path / "special"),
        AutoTokenizer.from_pretrained(tiny_model_dir),
    )
    alone = {"base": load(tiny_model_dir), "special": PeftModel.from_pretrained(load(tiny_model_dir), adapter)}
    prompts = ["How do I bake bread?", "Help"]
    expected = {name: greedy_answers(model, tokenizer, prompts, new_tokens=6) for name, model in alone.items()}
    backbones = Backbones(Loading(dtype="float32"))
    entry = {"base": EvaluatedModel("base", str(tiny_model_dir))}
    entry["special"] = EvaluatedModel("special", str(tiny_model_dir), adapter)
    for name in ("special", "base", "special"):
        with backbones.active(entry[name]) as model:
            assert greedy_answers(model, tokenizer, prompts, new_tokens=6) == expected[name]


def test_layers_that_an_adapter_puts_in_twice_are_not_the_bases(tiny_model_dir, adapters, tmp_path):
    """They stay where the adapter is switched off, so base and other adapters were scored as a deeper model."""
    twice = save_adapter(tiny_model_dir, tmp_path / "twice", 5, layer_replication=[[0, 2], [1, 2]])
    base = _logits(load(tiny_model_dir).eval())
    first = _logits(PeftModel.from_pretrained(load(tiny_model_dir), adapters[0]).eval())
    deeper = _logits(PeftModel.from_pretrained(load(tiny_model_dir), twice).eval())
    backbones = Backbones(Loading(dtype="float32"))
    for adapter, expected in ((twice, deeper), (None, base), (adapters[0], first), (twice, deeper), (None, base)):
        with backbones.active(EvaluatedModel("x", str(tiny_model_dir), adapter)) as model:
            torch.testing.assert_close(_logits(model), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("adapter_model.safetensors", "half", r"given: its adapter_model\.safetensors cannot be read"),
        ("adapter_config.json", "{", r"given/adapter_config\.json: is not JSON"),
        ("adapter_config.json", "{}", r"given/adapter_config\.json: has no peft_type"),
    ],
)
def test_broken_files_of_an_adapter_are_named(name, content, message, tiny_model_dir, tmp_path):
    """`invalid header length` does not say of which of five adapters."""
    folder = save_adapter(tiny_model_dir, tmp_path / "given")
    (tmp_path / "given" / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        with Backbones(Loading(dtype="float32")).active(EvaluatedModel("x", str(tiny_model_dir), folder)):
            pass
