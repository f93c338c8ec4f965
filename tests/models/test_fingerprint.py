# SPDX-License-Identifier: Apache-2.0
"""Two teachers are told apart by their weights, and one teacher is known again."""

import pytest
import torch
from peft import IA3Config, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from hf_ckt.models.fingerprint import base_fingerprint, fingerprint
from tests import tiny_models
from tests.trainers import load, lora


def test_a_model_is_known_again_in_another_precision_and_folder(tiny_model_dir, tmp_path):
    """A teacher that was only loaded otherwise would be taken for another one, and the run refused."""
    model = load(tiny_model_dir)
    found = fingerprint(model)
    assert len(found) == 16
    assert fingerprint(load(tiny_model_dir).to(torch.bfloat16)) == found
    model.save_pretrained(tmp_path / "moved")
    assert fingerprint(load(tmp_path / "moved")) == found


def test_models_that_differ_are_told_apart(tiny_model_dir, tmp_path):
    """Another width alone is not enough: a teacher of the same shape has other states too."""
    torch.manual_seed(0)
    models = [
        load(tiny_model_dir),
        load(tiny_models.save_tiny_llama(tmp_path / "other seed", seed=1)),
        load(tiny_models.save_tiny_llama(tmp_path / "wider", hidden_size=48)),
        # The same base below an adapter: embeddings, head and norms are those of the first.
        get_peft_model(load(tiny_model_dir), lora()),
        get_peft_model(load(tiny_model_dir), lora()),
    ]
    assert len({fingerprint(model) for model in models}) == 5


def test_random_state_is_left_alone(tiny_model_dir):
    """A draw here would be another run from there on."""
    model = load(tiny_model_dir)
    before = torch.get_rng_state()
    fingerprint(model)
    assert torch.equal(torch.get_rng_state(), before)


def test_fingerprint_of_what_is_never_quantized_is_that_of_the_quantized_model(tmp_path):
    """A teacher in 4 bits is the one that was there in full; another one is another in any precision."""
    folder = tiny_models.save_tiny_llama(tmp_path / "one", hidden_size=64)
    whole = load(folder)
    bits = AutoModelForCausalLM.from_pretrained(folder, quantization_config=BitsAndBytesConfig(load_in_4bit=True))
    assert fingerprint(whole) != fingerprint(bits)
    assert fingerprint(whole, quantizable=False) == fingerprint(bits, quantizable=False)
    other = load(tiny_models.save_tiny_llama(tmp_path / "two", hidden_size=64, seed=3))
    assert fingerprint(whole, quantizable=False) != fingerprint(other, quantizable=False)


ADAPTERS = {
    "lora": lambda: lora(),
    "dora": lambda: lora(use_dora=True),
    "embeddings": lambda: lora(target_modules=["embed_tokens", "q_proj", "lm_head"]),
    "bias": lambda: lora(bias="lora_only"),
    "copied modules": lambda: lora(modules_to_save=["lm_head", "embed_tokens"], target_modules=["q_proj"]),
    "copied norms": lambda: lora(modules_to_save=["norm"], target_modules=["q_proj"]),
    "trained tokens": lambda: lora(trainable_token_indices=[5, 6], target_modules=["q_proj"]),
    "ia3": lambda: IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
}


@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.parametrize("name", list(ADAPTERS))
def test_base_is_known_again_below_any_adapter(name, family, tiny_model_dir, tiny_gemma2_dir):
    """A probe fitted on the plain model would be refused by the student that was made of it."""
    folder = tiny_model_dir if family == "llama" else tiny_gemma2_dir
    whole = fingerprint(load(folder), quantizable=False)
    assert base_fingerprint(load(folder)) == whole
    torch.manual_seed(0)
    student = get_peft_model(load(folder).to(torch.bfloat16), ADAPTERS[name]())
    with torch.no_grad():
        for parameter in student.parameters():
            if parameter.requires_grad:
                parameter.add_(1)
    assert base_fingerprint(student) == base_fingerprint(student.get_base_model()) == whole
    student.add_adapter("second", ADAPTERS[name if name == "ia3" else "lora"]())
    assert base_fingerprint(student) == whole


def test_base_is_known_again_in_4_bits_and_another_is_not(tmp_path):
    """The probe of a model in full is that of the same model in 4 bits, below its adapters."""
    folder = tiny_models.save_tiny_llama(tmp_path / "one", hidden_size=64)
    bits = AutoModelForCausalLM.from_pretrained(folder, quantization_config=BitsAndBytesConfig(load_in_4bit=True))
    whole = base_fingerprint(load(folder))
    assert base_fingerprint(get_peft_model(bits, lora())) == whole
    other = load(tiny_models.save_tiny_llama(tmp_path / "two", hidden_size=64, seed=3))
    assert base_fingerprint(get_peft_model(other, lora())) != whole
