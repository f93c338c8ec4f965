# SPDX-License-Identifier: Apache-2.0
"""What a backbone is held and multiplied in is read off the backbone, not off its adapter."""

import pytest
import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from hf_ckt.models.precision import RECORD, backbone_precision, precision_name, quantization_name, recorded_precision
from tests import tiny_models
from tests.trainers import lora


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    """A tiny model 64 wide: bitsandbytes quantizes in blocks of 64."""
    return tiny_models.save_tiny_llama(tmp_path_factory.mktemp("wide"), hidden_size=64)


def _nf4(**more):
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", **more)


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (_nf4(), "nf4"),
        (_nf4().to_dict(), "nf4"),
        (BitsAndBytesConfig(load_in_4bit=True), "fp4"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "fp4"),
        (BitsAndBytesConfig(load_in_8bit=True).to_dict(), "int8"),
        ({"quant_method": "awq", "bits": 4}, "awq"),
        (None, None),
    ],
    ids=str,
)
def test_quantization_has_the_name_of_its_format(config, name):
    """nf4 and fp4 are other weights under one flag, and a saved model's configuration is a dict."""
    assert quantization_name(config) == name


@pytest.mark.parametrize(
    ("kwargs", "autocast", "expected"),
    [
        ({"dtype": torch.float32}, None, {"weights": "float32", "compute": "float32"}),
        ({"dtype": torch.float32}, "bfloat16", {"weights": "float32", "compute": "bfloat16"}),
        ({"dtype": torch.bfloat16}, None, {"weights": "bfloat16", "compute": "bfloat16"}),
        (
            {"dtype": torch.float32, "quantization_config": _nf4(bnb_4bit_compute_dtype=torch.bfloat16)},
            None,
            {"weights": "nf4", "compute": "bfloat16"},
        ),
        (
            {"dtype": torch.float32, "quantization_config": BitsAndBytesConfig(load_in_8bit=True)},
            None,
            {"weights": "int8", "compute": "float32"},
        ),
    ],
    ids=["float32", "autocast", "bfloat16", "nf4", "int8"],
)
def test_precision_is_the_backbones(model_dir, kwargs, autocast, expected):
    """peft keeps adapters in float32 over whatever they stand on: read off all parameters, a precision may be theirs."""
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(model_dir, **kwargs), lora(target_modules="all-linear")
    )
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.float64)
    assert backbone_precision(model, autocast) == expected


def test_one_word_tells_precisions_apart():
    """Weights of float32 under autocast answer as bfloat16; 4-bit ones answer as such in whatever they are multiplied."""
    assert precision_name({"weights": "float32", "compute": "bfloat16"}) == "bfloat16"
    assert precision_name({"weights": "nf4", "compute": "float32"}) == "nf4"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"backbone": null}', '{"backbone": {"weights": "nf4"}}'])
def test_record_that_cannot_be_read_is_none(tmp_path, content):
    """An adapter of another tool may have a file of that name; a scoring that ends there is worse than one without it."""
    (tmp_path / RECORD).write_text(content)
    assert recorded_precision(tmp_path / RECORD) is None
    assert recorded_precision(tmp_path / "missing.json") is None and recorded_precision(None) is None
