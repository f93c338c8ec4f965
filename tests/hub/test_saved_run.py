# SPDX-License-Identifier: Apache-2.0
"""Which files of a folder go to the Hub, and folders that are no saved run."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file

from hf_ckt.hub.saved_run import read_saved_run
from hf_ckt.models import boundary_probe
from tests.hub.saved_runs import UNPUBLISHED, write_run

TOKENIZER = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}


def names(run):
    return {path.relative_to(run.folder).as_posix() for path in run.files}


def test_files_of_an_adapter_are_told_from_all_else(tmp_path):
    """A pickle runs code in a reader's process; an optimizer's state and a stray file are nobody's business."""
    run = read_saved_run(write_run(tmp_path / "run"))
    adapter = {"adapter_model.safetensors", "adapter_config.json", "hf_ckt_training.json", "README.md"}
    assert names(run) == adapter | TOKENIZER and run.is_adapter
    assert run.left_out.keys() == UNPUBLISHED | {"checkpoint-2/", "runs/"}
    assert "pickle" in run.left_out["training_args.bin"] and "pickle" in run.left_out["optimizer.pt"]
    assert run.left_out["checkpoint-2/"] == "a checkpoint"


def test_files_of_a_full_model_are_all_its_shards(tmp_path):
    """A model without one of its parts loads nowhere."""
    folder = write_run(tmp_path / "run", is_adapter=False)
    (folder / "model.safetensors").unlink()
    shards = [f"model-0000{one}-of-00002.safetensors" for one in (1, 2)]
    for shard in shards:
        save_file({shard: np.ones(2, dtype=np.float32)}, folder / shard)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {shard: shard for shard in shards}}))
    run = read_saved_run(folder)
    assert names(run) == {"config.json", "hf_ckt_training.json", "README.md", index.name, *shards} | TOKENIZER
    assert not run.is_adapter
    (folder / shards[1]).unlink()
    with pytest.raises(ValueError, match=f"lacks {shards[1]}, which {index.name} names"):
        read_saved_run(folder)
    (tmp_path / "elsewhere.safetensors").touch()
    index.write_text(json.dumps({"weight_map": {"a": "../elsewhere.safetensors"}}))
    with pytest.raises(ValueError, match=r"lacks \.\./elsewhere"):
        read_saved_run(folder)


def test_a_probe_beside_the_adapter_and_further_templates_go_along(tmp_path):
    """The soft route and the tokenizer read them from the folder that they were saved in."""
    folder = write_run(tmp_path / "run")
    boundary_probe.BoundaryProbe([1], boundary_probe.torch.ones(4), 0.0).save(folder)
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tools.jinja").write_text("{{ messages }}")
    found = names(read_saved_run(folder))
    assert {boundary_probe.WEIGHTS, boundary_probe.FACTS, "additional_chat_templates/tools.jinja"} <= found


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("adapter_config.json", "holds neither adapter_config.json nor config.json.*Name the folder"),
        ("adapter_model.safetensors", r"holds no adapter_model.safetensors.*trainer.save_model\(\)"),
        ("README.md", r"holds no README.md.*Write it with `hf-ckt card`"),
        ("tokenizer_config.json", r"holds no tokenizer_config.json.*tokenizer.save_pretrained"),
    ],
)
def test_a_folder_without_a_part_of_a_run_is_refused(name, said, tmp_path):
    """Half a model on the Hub fails at the reader's first line."""
    folder = write_run(tmp_path / "run")
    (folder / name).unlink()
    with pytest.raises(ValueError, match=said):
        read_saved_run(folder)


def test_a_folder_of_checkpoints_alone_names_the_last(tmp_path):
    """A run that was stopped left its weights in checkpoints, and its own folder empty."""
    folder = write_run(tmp_path / "run")
    (folder / "adapter_config.json").unlink()
    with pytest.raises(ValueError, match=r"Or push its last checkpoint, .*checkpoint-2"):
        read_saved_run(folder)
    with pytest.raises(ValueError, match="no such folder"):
        read_saved_run(tmp_path / "rnu")


def test_weights_as_a_pickle_alone_are_refused(tmp_path):
    """They would be left out, and a card without weights pushed."""
    folder = write_run(tmp_path / "run")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(ValueError, match=r"adapter_model\.bin, a pickle, which is not pushed"):
        read_saved_run(folder)


@pytest.mark.parametrize("size", [0, 5, 40, -4, None], ids=["empty", "stub", "head cut", "values cut", "no head"])
def test_weights_that_were_cut_off_are_refused(size, tmp_path):
    """A copy that was broken off has the right name, and fails on every other machine."""
    folder = write_run(tmp_path / "run")
    weights = folder / "adapter_model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(b"\2\0\0\0\0\0\0\0[]" if size is None else content[:size])
    with pytest.raises(ValueError, match="no whole safetensors file"):
        read_saved_run(folder)
    shutil.rmtree(folder / "checkpoint-2")
    weights.write_bytes(content)
    assert read_saved_run(folder).left_out.keys() == UNPUBLISHED | {"runs/"}
