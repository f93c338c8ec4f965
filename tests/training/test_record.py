# SPDX-License-Identifier: Apache-2.0
"""What is saved beside an adapter says over which backbone it was trained."""

import json
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import BitsAndBytesConfig

from hf_ckt.models.fingerprint import fingerprint
from hf_ckt.models.precision import RECORD, recorded_precision
from tests import tiny_models
from tests.runs import OFF, rows
from tests.trainers import build, load, lora, run

NF4 = {
    "quantization_config": BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
    )
}


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    """A tiny model 64 wide: bitsandbytes quantizes in blocks of 64."""
    return tiny_models.save_tiny_llama(tmp_path_factory.mktemp("wide"), hidden_size=64)


@pytest.mark.parametrize(
    ("given", "changes", "expected"),
    [
        (NF4, {}, {"weights": "nf4", "compute": "bfloat16"}),
        (
            {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)},
            {},
            {"weights": "int8", "compute": "float32"},
        ),
        ({}, {}, {"weights": "float32", "compute": "float32"}),
        ({}, {"bf16": True}, {"weights": "float32", "compute": "bfloat16"}),
    ],
    ids=["nf4", "int8", "float32", "autocast"],
)
def test_saved_adapter_states_its_backbones_precision(model_dir, tmp_path, given, changes, expected):
    """An adapter that was trained over 4 bits was scored over float32, and nothing beside it said so."""
    given = {"peft_config": lora(), **given}
    trainer = run(
        build(
            tmp_path / "run",
            model_dir,
            given=given,
            max_steps=1,
            save_strategy="steps",
            save_steps=1,
            **changes,
            **OFF,
        )
    )
    trainer.save_model(str(tmp_path / "saved"))
    for folder in (tmp_path / "saved", Path(trainer.args.output_dir) / "checkpoint-1"):
        assert (folder / "adapter_config.json").exists()
        assert recorded_precision(folder / RECORD) == expected
    assert (
        str(tmp_path) not in (tmp_path / "saved" / RECORD).read_text()
        and str(model_dir) not in (tmp_path / "saved" / RECORD).read_text()
    )


def test_saved_adapter_and_card_state_where_its_bases_weights_are_from(model_dir, tmp_path):
    """The demo's base carries the name of published weights, and its own went through four bits."""
    (model_dir / "hf_ckt_origin.json").write_text(
        json.dumps({"weights": "weights dequantized from the Q4_1 GGUF of a file"})
    )
    trainer = build(tmp_path / "run", model_dir, given={"peft_config": lora(), **NF4}, **OFF)
    trainer.save_model(str(tmp_path / "saved"))
    record = json.loads((tmp_path / "saved" / RECORD).read_text())
    assert record["base_weights"] == "weights dequantized from the Q4_1 GGUF of a file"
    trainer.create_model_card()
    card = (tmp_path / "run" / "README.md").read_text()
    assert "| Its weights | weights dequantized from the Q4_1 GGUF of a file |" in card
    assert "| backbone | nf4 weights, multiplied in bfloat16 |" in card


def test_saved_adapter_states_objective_settings_and_teachers(model_dir, tmp_path):
    """The card tells readers; a program that compares runs would have to read its tables."""
    changes = {"distillation_weight": 0.5, "distillation_temperature": 2.0, "consistency_weight": 0.3}
    changes |= {"perturbation": "uniform", "hub_token": "hf_" + "a1B2" * 8}
    given = {"peft_config": lora(), "teachers": {"safety": str(model_dir), "base": None}}
    data = Dataset.from_list([{**row, "teacher": ("safety", "base")[n % 2]} for n, row in enumerate(rows())])
    trainer = build(tmp_path / "run", model_dir, data, given=given, **{**OFF, **changes})
    trainer.save_model()
    text = (tmp_path / "run" / RECORD).read_text()
    record = json.loads(text)
    terms = {term["role"]: (term["loss"], term["weight"]) for term in record["objective"]}
    assert terms["distillation"] == ("forward_kl", 0.5) and terms["consistency"] == ("consistency_kl", 0.3)
    assert [one["settings"] for one in record["objective"] if one["role"] == "distillation"] == [{"temperature": 2.0}]
    assert record["settings"]["learning_rate"] == 1e-2 and record["settings"]["perturbation"] == "uniform"
    assert record["teacher"]["teachers"]["safety"]["weights"] == fingerprint(load(model_dir))
    assert record["teacher"]["teachers"]["safety"]["name"] == model_dir.name
    assert record["versions"]["peft"] == version("peft")
    assert str(tmp_path) not in text and str(model_dir) not in text and "a1B2" not in text
