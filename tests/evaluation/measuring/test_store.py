# SPDX-License-Identifier: Apache-2.0
"""Pieces of an evaluation: made once, named by all they depend on, never half there."""

import os

import pytest

from hf_ckt.evaluation.measuring import store as module
from hf_ckt.evaluation.measuring.store import PieceStore, fingerprint


def test_piece_is_made_once_and_again_for_another_key(tmp_path):
    """A piece that is read for other settings would be another model's answer."""
    store, made = PieceStore(tmp_path), []

    def make():
        made.append(1)
        return {"answer": len(made)}

    assert not store.has({"seed": 0})
    assert store.piece({"seed": 0}, make) == {"answer": 1} == store.piece({"seed": 0}, make)
    assert store.has({"seed": 0}) and not store.has({"seed": 1})
    assert store.piece({"seed": 1}, make) == {"answer": 2}
    assert PieceStore(tmp_path).piece({"seed": 0}, make) == {"answer": 1}


def test_piece_that_fails_leaves_nothing(tmp_path):
    """A file of a failed piece would be read as a result for ever."""

    def fail():
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        PieceStore(tmp_path).piece({"seed": 0}, fail)
    assert not list(tmp_path.iterdir())


def test_piece_first_made_equals_piece_read_again(tmp_path):
    """Tuples become lists in JSON: a first run that saw tuples could differ from the one that resumes it."""
    store = PieceStore(tmp_path)
    assert store.piece({}, lambda: [(1, "a")]) == store.piece({}, lambda: None) == [[1, "a"]]


def test_fingerprint_follows_content_and_not_time(tmp_path, monkeypatch):
    """A retrained adapter under the old path must not be taken for the old one, nor a copied one for another."""
    file = tmp_path / "adapter_model.safetensors"
    file.write_bytes(b"weights")
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "log.txt").write_text("first")
    first = fingerprint(tmp_path)
    os.utime(file, (1, 1))
    (tmp_path / "log.txt").write_text("second")
    assert fingerprint(tmp_path) == first
    file.write_bytes(b"Weights")
    assert fingerprint(tmp_path) != first

    monkeypatch.setattr(module, "_READ_WHOLE", 3)  # now the file is one of the large ones
    by_time = fingerprint(tmp_path)
    os.utime(file, (2, 2))
    assert fingerprint(tmp_path) != by_time


@pytest.mark.parametrize("name", ["merges.txt", "qwen.tiktoken", "modeling_own.py", "tokenizer.model"])
def test_fingerprint_follows_every_file_that_changes_an_answer(tmp_path, name):
    """A tokenizer in files of another kind, or the model's own code, was changed under the answers of the old one."""
    (tmp_path / name).write_text("first")
    first = fingerprint(tmp_path)
    (tmp_path / name).write_text("other")
    assert fingerprint(tmp_path) != first
