# SPDX-License-Identifier: Apache-2.0
"""What is saved beside an adapter says over which backbone it was trained."""

import json
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import BitsAndBytesConfig

from hf_ckt.data.rows_fingerprint import rows_fingerprint
from hf_ckt.hub.saved_card import saved_card
from hf_ckt.hub.saved_run import read_saved_run
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
    manifest = record["teacher_manifest"]["teachers"]["safety"]
    assert manifest["weights"] == fingerprint(load(model_dir)) and manifest["name"] == model_dir.name
    assert record["framework_versions"]["peft"] == version("peft")
    assert str(tmp_path) not in text and str(model_dir) not in text and "a1B2" not in text


def test_record_holds_all_that_a_card_is_made_of(model_dir, tmp_path, monkeypatch):
    """A card that is written again would know less than the one that the training wrote, and nobody would compare the two."""
    token = "hf_" + "a1B2" * 8
    monkeypatch.setattr("sys.argv", [str(tmp_path / "bin" / "hf-ckt"), "train", "--hub-token", token, "--seed", "1"])
    data = Dataset.from_list(rows(6))
    trainer = run(build(tmp_path / "run", model_dir, data, given={"peft_config": lora()}, max_steps=1, **OFF))
    trainer.dataset_name = ["org/rows", str(tmp_path / "rows.jsonl")]
    trainer.save_model()
    trainer.create_model_card()
    record = json.loads((tmp_path / "run" / RECORD).read_text())
    digest = rows_fingerprint(data)
    assert record["data"] == {"names": ["org/rows", "./rows.jsonl"], "rows": 6, "fingerprint": digest}
    assert record["base_model"] == f"./{model_dir.name}" and record["is_adapter"] is True
    assert record["command"] == "hf-ckt train --hub-token '[removed]' --seed 1"
    assert record["device"].startswith("CPU, ") and record["training_summary"]["train_runtime"] > 0
    assert token not in str(record) and str(tmp_path) not in str(record)
    saved = read_saved_run(tmp_path / "run")
    written = (tmp_path / "run" / "README.md").read_text()
    assert saved_card(saved) == written
    (tmp_path / "run" / "README.md").unlink()
    assert saved_card(saved) == written
    assert f"org/rows), rows.jsonl, 6 rows, fingerprint {digest} |" in written


def test_saving_leaves_the_card_to_hf_ckt(model_dir, tmp_path):
    """PEFT writes a form that nobody filled in, with the base's folder, and `hf-ckt card` would keep it as somebody's own words."""
    card = tmp_path / "run" / "README.md"
    trainer = build(tmp_path / "run", model_dir, given={"peft_config": lora()}, **OFF)
    trainer.save_model()
    assert "[More Information Needed]" in card.read_text()
    told = saved_card(read_saved_run(tmp_path / "run"))
    trainer.create_model_card()
    assert card.read_text() == told and "[More Information Needed]" not in told
    mine = card.read_text() + "\nMine.\n"
    card.write_text(mine)
    trainer.save_model()
    assert card.read_text() == mine and saved_card(read_saved_run(tmp_path / "run")) == mine


def test_rows_too_many_to_be_read_are_counted_alone(model_dir, tmp_path, monkeypatch):
    """The other processes would wait for their fingerprint until they gave up."""
    trainer = build(tmp_path / "run", model_dir, Dataset.from_list(rows(6)), given={"peft_config": lora()}, **OFF)
    monkeypatch.setattr("hf_ckt.hub.run_card.LARGE", 10)
    trainer.save_model()
    found = json.loads((tmp_path / "run" / RECORD).read_text())["data"]
    assert found == {"names": [], "rows": 6, "fingerprint": None}


def test_name_of_the_data_that_the_card_is_given_reaches_the_record(model_dir, tmp_path):
    """The card that is written again would not know what was trained on."""
    trainer = build(tmp_path / "run", model_dir, given={"peft_config": lora()}, **OFF)
    trainer.create_model_card()
    assert not (tmp_path / "run" / RECORD).exists()  # of weights that are not there
    trainer.save_model()
    trainer.create_model_card(dataset_name="org/rows")
    assert json.loads((tmp_path / "run" / RECORD).read_text())["data"]["names"] == ["org/rows"]


def test_streamed_rows_have_no_number_and_no_fingerprint(model_dir, tmp_path):
    """They are read as they are trained on: whoever counted them first would read them twice."""
    given = {"peft_config": lora()}
    stream = Dataset.from_list(rows(6)).to_iterable_dataset()
    trainer = build(
        tmp_path / "run", model_dir, stream, given=given, **{**OFF, "train_sampling_strategy": "sequential"}
    )
    trainer.save_model()
    found = json.loads((tmp_path / "run" / RECORD).read_text())["data"]
    assert found == {"names": [], "rows": None, "fingerprint": None}


@pytest.mark.parametrize("again", [False, True])
def test_time_of_a_training_that_went_on_is_marked(again, model_dir, tmp_path):
    """The seconds of its last part would be read as those of all of it."""
    changes = {"save_strategy": "steps", "save_steps": 1, **OFF}
    run(build(tmp_path / "run", model_dir, given={"peft_config": lora()}, max_steps=1, **changes))
    trainer = build(tmp_path / "run", model_dir, given={"peft_config": lora()}, max_steps=2, **changes)
    trainer.train(resume_from_checkpoint=again)
    trainer.create_model_card()
    card = (tmp_path / "run" / "README.md").read_text()
    assert ("s of training since it was last resumed;" in card) == again and "s of training" in card
