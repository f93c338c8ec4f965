# SPDX-License-Identifier: Apache-2.0
"""The models of a comparison: which they are, what they are called, and how they are loaded."""

import pytest

from hf_ckt.evaluation.measuring.models import EvaluatedModel, Loading, entries, public_name
from hf_ckt.models.embedded import HUB_ID
from tests.evaluation.measuring.saved_adapters import save_adapter


def test_entries_are_named_apart(tiny_model_dir, adapters, tmp_path):
    """Two adapters under one name would overwrite each other's results."""
    other = save_adapter(tiny_model_dir, tmp_path / "first", 3)
    listed, teachers = entries(str(tiny_model_dir), None, [adapters[0], other, str(tiny_model_dir)])
    assert [entry.name for entry in listed] == ["base", "first", "first-2", tiny_model_dir.name]
    assert listed[-1].adapter is None
    assert teachers == dict.fromkeys(("harmful", "benign"), EvaluatedModel("base", str(tiny_model_dir)))


def test_base_alone_has_no_teacher(tiny_model_dir, adapters):
    """Agreement of a model with itself is 1 and says nothing."""
    assert entries(str(tiny_model_dir))[1] == {}
    told = EvaluatedModel("teacher", str(tiny_model_dir), adapters[0])
    assert entries(str(tiny_model_dir), teacher=adapters[0])[1] == {"harmful": told, "benign": told}


def test_each_kind_of_prompt_may_have_a_teacher_of_its_own(tiny_model_dir, adapters):
    """A student of two teachers would be held to what the one says of prompts that the other one answered."""
    routed = {"benign": "base", "harmful": adapters[0]}
    listed, teachers = entries(str(tiny_model_dir), teacher=routed)
    assert teachers == {
        "harmful": EvaluatedModel("teacher", str(tiny_model_dir), adapters[0]),
        "benign": listed[0],
    }
    for wrong in ({"harmful": adapters[0]}, {"harmful": adapters[0], "beningn": "base"}):
        with pytest.raises(
            ValueError, match="--teacher: must name one teacher, or one for each of harmful and benign"
        ):
            entries(str(tiny_model_dir), teacher=wrong)


def test_swapped_base_and_adapter_raise(tiny_model_dir, adapters):
    """peft would load the adapter's own base unasked, and the table would compare it with itself."""
    with pytest.raises(ValueError, match="--model: 'first' is an adapter"):
        entries(adapters[0])
    with pytest.raises(ValueError, match=r"holds no adapter_config\.json"):
        entries(str(tiny_model_dir), str(tiny_model_dir))


def test_what_is_not_there_is_named(tiny_model_dir):
    """Without network the library's words name no model, and an id with a slip is taken for an adapter without a file."""
    with pytest.raises(OSError, match="'org/nowhere' is no folder of this machine"):
        EvaluatedModel("base", "org/nowhere").identity()
    with pytest.raises(ValueError, match="--adapter: 'org/nowhere' is no folder of this machine"):
        entries(str(tiny_model_dir), "org/nowhere")


def test_identity_changes_with_the_weights(tiny_model_dir, adapters):
    """Answers kept for one adapter must not be read for another."""
    one, two = (EvaluatedModel("adapter", str(tiny_model_dir), adapter).identity() for adapter in adapters)
    assert one[0] == two[0] and one[1] != two[1]


def test_public_name_holds_no_path(tmp_path):
    """A path of somebody's machine in a results file says more than its owner wants."""
    folder = tmp_path / "my-adapter"
    folder.mkdir()
    assert public_name(str(folder)) == "my-adapter"
    assert public_name("org/model") == "org/model"
    assert public_name("smollm2") == HUB_ID


def test_quantized_loading_names_its_format():
    """A run that was meant to be in NF4 and was not would only show in memory."""
    config = Loading(dtype="float32", quantization="nf4").kwargs()["quantization_config"]
    assert config.load_in_4bit and config.bnb_4bit_quant_type == "nf4"
    assert Loading(quantization="int8").kwargs()["quantization_config"].load_in_8bit
    assert Loading().kwargs()["use_safetensors"] and not Loading().kwargs()["trust_remote_code"]
