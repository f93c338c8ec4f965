# SPDX-License-Identifier: Apache-2.0
"""Two teachers are told apart by their weights, and one teacher is known again."""

import pytest
import torch
from peft import get_peft_model

from hf_ckt.models._upstream import base_parameters
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
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    from tests import tiny_models
    from tests.trainers import load

    folder = tiny_models.save_tiny_llama(tmp_path / "one", hidden_size=64)
    whole = load(folder)
    bits = AutoModelForCausalLM.from_pretrained(folder, quantization_config=BitsAndBytesConfig(load_in_4bit=True))
    assert fingerprint(whole) != fingerprint(bits)
    assert fingerprint(whole, quantizable=False) == fingerprint(bits, quantizable=False)
    other = load(tiny_models.save_tiny_llama(tmp_path / "two", hidden_size=64, seed=3))
    assert fingerprint(whole, quantizable=False) != fingerprint(other, quantizable=False)


ADAPTERS = {
    "lora": {},
    "lora on the embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "a whole module": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "embed_tokens"]},
    "tokens": {"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [1, 2]}},
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_base_fingerprint_is_that_without_adapters(name, tiny_model_dir):
    """A probe of the base would be refused by the very student whose base it was fitted on."""
    torch.manual_seed(0)
    model = load(tiny_model_dir)
    expected = base_fingerprint(model)
    names = [name for name, _ in model.named_parameters()]
    student = get_peft_model(model, lora(**ADAPTERS[name]))
    with torch.no_grad():
        for parameter in student.parameters():
            if parameter.requires_grad:
                parameter += 1
    assert base_fingerprint(student) == base_fingerprint(student.get_base_model()) == expected
    assert [name for name, _ in base_parameters(student)] == names


def test_base_fingerprint_is_that_of_the_quantized_model_below_an_adapter(tmp_path):
    """Training loads the base in 4 bits that the probe was fitted on in full."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    folder = tiny_models.save_tiny_llama(tmp_path / "one", hidden_size=64)
    bits = AutoModelForCausalLM.from_pretrained(folder, quantization_config=BitsAndBytesConfig(load_in_4bit=True))
    student = get_peft_model(bits, lora())
    assert base_fingerprint(student) == base_fingerprint(bits) == base_fingerprint(load(folder))
    assert base_fingerprint(student) != base_fingerprint(
        load(tiny_models.save_tiny_llama(tmp_path / "two", hidden_size=64, seed=3))
    )
