# SPDX-License-Identifier: Apache-2.0
"""Folders as a trainer leaves them, written without a training."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from hf_ckt.hub import build_model_card
from hf_ckt.hub.model_card import RUN_FACTS
from hf_ckt.hub.public import public_name
from tests.tiny_models import build_tokenizer

_OBJECTIVE = [{"role": "task", "loss": "nll", "weight": 1.0, "schedule": "constant", "settings": {}}]
UNPUBLISHED = {"training_args.bin", "optimizer.pt", "notes.txt", ".hidden.tmp", "trainer_state.json"}
"""Files of [`write_run`] that are not the model's, beside its folders."""


def facts(**changes: Any) -> dict[str, Any]:
    """What is recorded of a run that was trained on `org/base` and lies on this machine."""
    found = {
        **dict.fromkeys(RUN_FACTS),
        "base_model": "org/base",
        "data": {"names": ["org/data"], "rows": 12, "fingerprint": "0123456789abcdef"},
        "objective": _OBJECTIVE,
        "settings": {"learning_rate": 2e-4, "backbone": "nf4 weights, multiplied in bfloat16"},
        "framework_versions": {"trl": "1.16.0"},
        "teacher": "org/teacher",
        "is_adapter": True,
        "command": "hf-ckt train --config run.yaml",
        "device": "CPU, 2 cores",
        "training_summary": {"train_runtime": 12.5},
        "resumed": False,
    }
    return found | changes


def card(**changes: Any) -> str:
    """The card of a run that is named `run`."""
    given = {"model_name": "run"} | changes
    beside = {name: given.pop(name) for name in ("model_name", "tags", "evaluation") if name in given}
    return build_model_card(**facts(**given), **beside).content


def write_run(folder: Path, base: str = "org/base", *, is_adapter: bool = True) -> Path:
    """Writes what a run of an adapter (or of a full model) on a base leaves behind, with some files beside it."""
    folder.mkdir(parents=True)
    name = "adapter_model.safetensors" if is_adapter else "model.safetensors"
    save_file({"lora_A": np.arange(6, dtype=np.float32).reshape(2, 3)}, folder / name, metadata={"format": "pt"})
    settings = {"peft_type": "LORA", "base_model_name_or_path": base, "r": 2, "target_modules": ["q_proj"]}
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    write_json(folder / ("adapter_config.json" if is_adapter else "config.json"), settings if is_adapter else config)
    known = facts(base_model=public_name(base), is_adapter=is_adapter)
    write_json(folder / "hf_ckt_training.json", {**known, "backbone": {"weights": "nf4"}, "teacher_manifest": None})
    write_json(folder / "trainer_state.json", {"global_step": 2})
    build_tokenizer().save_pretrained(folder)
    (folder / "README.md").write_text(card(base_model=base, is_adapter=is_adapter))
    for other in ("training_args.bin", "optimizer.pt", "notes.txt", ".hidden.tmp"):
        (folder / other).write_bytes(b"not the model")
    checkpoint = folder / "checkpoint-2"
    checkpoint.mkdir()
    shutil.copy(folder / name, checkpoint / name)
    write_json(checkpoint / "trainer_state.json", {"global_step": 2})
    (folder / "runs").mkdir()
    return folder


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2))


def change_json(path: Path, **changes: Any) -> None:
    write_json(path, {**json.loads(path.read_text()), **changes})
