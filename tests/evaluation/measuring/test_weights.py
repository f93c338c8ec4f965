# SPDX-License-Identifier: Apache-2.0
"""Which weights a model is, and whether it is scored over the backbone that it was trained over."""

import json
import re
import shutil
from pathlib import Path

import pytest
from huggingface_hub.constants import HF_HUB_CACHE

from hf_ckt.evaluation.measuring.models import EvaluatedModel, Loading
from hf_ckt.evaluation.measuring.weights import precision_warnings, scored_precision, weights_facts
from hf_ckt.models.precision import RECORD
from tests.evaluation.measuring.saved_adapters import save_adapter

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def adapter(tiny_model_dir, tmp_path):
    return save_adapter(tiny_model_dir, tmp_path / "trained")


def _record(adapter, weights, compute="bfloat16"):
    with open(f"{adapter}/{RECORD}", "w") as file:
        json.dump({"backbone": {"weights": weights, "compute": compute}}, file)


def test_digest_is_of_the_weights_and_of_nothing_else(tiny_model_dir, adapters, tmp_path):
    """A digest of times and settings differs for the same weights, and one of names is the same for others."""
    copy = tmp_path / "copy"
    shutil.copytree(tiny_model_dir, copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"use_cache": False}))
    (copy / "model.safetensors").touch()
    listed = [EvaluatedModel("a", str(model), adapter) for model in (tiny_model_dir, copy) for adapter in adapters]
    found = [weights_facts(entry, Loading())["weights"] for entry in listed]
    assert len({one["base"]["digest"] for one in found}) == 1
    assert [one["adapter"]["digest"] for one in found[:2]] == [one["adapter"]["digest"] for one in found[2:]]
    assert found[0]["adapter"]["digest"] != found[1]["adapter"]["digest"]
    content = bytearray((copy / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (copy / "model.safetensors").write_bytes(content)
    assert weights_facts(listed[2], Loading())["weights"]["base"]["digest"] != found[0]["base"]["digest"]
    assert str(tmp_path) not in json.dumps(found)


def test_model_of_the_hub_has_its_revision_and_the_digest_of_a_folder(tiny_model_dir):
    """A Hub id without its commit names whatever is there tomorrow."""
    repository = f"{HF_HUB_CACHE}/models--org--of-the-hub"
    snapshot = f"{repository}/snapshots/{COMMIT}"
    shutil.copytree(tiny_model_dir, snapshot)
    try:
        refs = Path(repository, "refs")
        refs.mkdir()
        (refs / "main").write_text(COMMIT)
        hub, folder = (
            weights_facts(EvaluatedModel("base", model), Loading())["weights"]["base"]
            for model in ("org/of-the-hub", str(tiny_model_dir))
        )
    finally:
        shutil.rmtree(repository)
    assert hub == {**folder, "revision": COMMIT} and folder["revision"] is None and hub["digest"]


def test_both_precisions_are_stated(tiny_model_dir, adapter):
    """A table of an adapter that was trained over four bits and scored over float32 shows another model."""
    entry = EvaluatedModel("adapter", str(tiny_model_dir), adapter)
    facts = weights_facts(entry, Loading(dtype="float32"))
    assert facts["trained_precision"] is None  # peft alone saved it
    _record(adapter, "nf4")
    facts = weights_facts(entry, Loading(dtype="float32"))
    assert facts["trained_precision"] == {"weights": "nf4", "compute": "bfloat16"}
    assert facts["scored_precision"] == {"weights": "float32", "compute": "float32"}
    assert scored_precision(entry, Loading("bfloat16", "nf4")) == {"weights": "nf4", "compute": "bfloat16"}


@pytest.mark.parametrize(
    ("trained", "loading", "remedy"),
    [
        (
            ("nf4", "bfloat16"),
            Loading("float32"),
            "in nf4 and is scored over one in float32.*Score it with --load-in-4bit",
        ),
        (("int8", "float16"), Loading("float32", "nf4"), "in int8 and is scored over one in nf4.*--load-in-8bit"),
        (("float32", "float32"), Loading("bfloat16", "nf4"), "--dtype float32 and without --load-in-4bit"),
        (
            ("float32", "bfloat16"),
            Loading("float32"),
            "in bfloat16 and is scored over one in float32.*--dtype bfloat16",
        ),
        (("fp4", "float32"), Loading("float32"), "in fp4 and is scored over one in float32.*--as-trained"),
        (("gptq", "float32"), Loading("float32"), "the base that was saved in gptq"),
        (("nf4", "bfloat16"), Loading("float32", "nf4"), None),
        (("float32", "bfloat16"), Loading("bfloat16"), None),
    ],
    ids=str,
)
def test_other_precision_is_said_with_its_remedy(tiny_model_dir, adapter, trained, loading, remedy):
    """What differs must be said in one sentence with the option that mends it, and what does not must not."""
    _record(adapter, *trained)
    listed = [EvaluatedModel("base", str(tiny_model_dir)), EvaluatedModel("student", str(tiny_model_dir), adapter)]
    said = precision_warnings(listed, loading)
    assert len(said) == (remedy is not None)
    if remedy is not None:
        assert said[0].startswith("student: ") and re.search(remedy, said[0])


def test_dtype_that_the_model_decides_is_the_one_it_was_saved_in(tiny_model_dir, adapter):
    """An adapter over the very backbone that it was trained over would be said to be another model."""
    config = json.loads((tiny_model_dir / "config.json").read_text())
    saved = config.get("dtype") or config["torch_dtype"]
    entry = EvaluatedModel("student", str(tiny_model_dir), adapter)
    _record(adapter, saved, saved)
    assert scored_precision(entry, Loading("auto")) == {"weights": saved, "compute": saved}
    assert not precision_warnings([entry], Loading("auto"))
    _record(adapter, "nf4", saved)
    assert len(precision_warnings([entry], Loading("auto"))) == 1


def test_base_that_was_saved_quantized_is_scored_so(tiny_model_dir, tmp_path):
    """Its own configuration decides how it is loaded, not an option that was left out."""
    folder = tmp_path / "quantized"
    shutil.copytree(tiny_model_dir, folder)
    config = json.loads((folder / "config.json").read_text())
    quantization = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": quantization}))
    entry = EvaluatedModel("base", str(folder))
    assert scored_precision(entry, Loading("float32"))["weights"] == "nf4"
    assert "bitsandbytes" in entry.conditions(Loading("float32"))["versions"]
    plain = EvaluatedModel("base", str(tiny_model_dir))
    assert "bitsandbytes" not in plain.conditions(Loading("float32"))["versions"]
    assert "bitsandbytes" in plain.conditions(Loading("float32", "nf4"))["versions"]
    assert {"torch", "transformers", "peft", "tokenizers", "jinja2"} <= plain.conditions(Loading())["versions"].keys()


def test_each_adapter_is_loaded_over_what_it_was_trained_over(tiny_model_dir, adapters, tmp_path):
    """Of a teacher trained over float32 and a student over NF4, one would always be scored over another backbone."""
    import torch

    from hf_ckt.evaluation.measuring.backbones import Backbones

    listed = [EvaluatedModel("base", str(tiny_model_dir))]
    recorded = {"student": ("nf4", "float32"), "teacher": ("float32", "float32"), "four bits": ("fp4", "float32")}
    for name, (weights, compute) in recorded.items():
        folder = save_adapter(tiny_model_dir, tmp_path / name)
        _record(folder, weights, compute)
        listed.append(EvaluatedModel(name, str(tiny_model_dir), folder))
    listed.append(EvaluatedModel("unknown", str(tiny_model_dir), adapters[0]))
    loading = Loading(dtype="bfloat16", as_trained=True)
    backbones, found = Backbones(loading), {}
    for entry in [*listed, *listed]:
        with backbones.active(entry) as model:
            quantized = getattr(getattr(model.config, "quantization_config", None), "bnb_4bit_quant_type", None)
            kept = model.get_input_embeddings().weight.dtype
            found[entry.name] = (quantized, kept)
    assert found == {
        "base": (None, torch.bfloat16),
        "student": ("nf4", torch.float32),
        "teacher": (None, torch.float32),
        "four bits": ("fp4", torch.float32),
        "unknown": (None, torch.bfloat16),
    }
    assert not precision_warnings(listed, loading)
    assert [weights_facts(entry, loading)["scored_precision"]["weights"] for entry in listed] == [
        "bfloat16",
        "nf4",
        "float32",
        "fp4",
        "bfloat16",
    ]
    assert len(precision_warnings(listed, Loading(dtype="bfloat16"))) == 3
