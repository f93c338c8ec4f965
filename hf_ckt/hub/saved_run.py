# SPDX-License-Identifier: Apache-2.0
"""Which files of a folder that a trainer saved are the model, and which stay where they are."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkpoints import last_complete_checkpoint
from ..models.precision import RECORD

ADAPTER, MODEL, CARD = "adapter_config.json", "config.json", "README.md"
_ADAPTER_WEIGHTS, _MODEL_WEIGHTS = "adapter_model.safetensors", "model.safetensors"
_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
_TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json"),
    *("vocab.txt", "merges.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model"),
    *("chat_template.jinja", "chat_template.json", "preprocessor_config.json", "processor_config.json"),
)
VOCABULARIES = frozenset(_TOKENIZER) - {"tokenizer_config.json", "preprocessor_config.json", "processor_config.json"}
"""Files whose texts are tokens of a vocabulary and templates, in which a path means nothing."""
_FILES = frozenset(
    {
        *(ADAPTER, MODEL, CARD, RECORD, "generation_config.json", "training_args.json"),
        # Named here and not taken from models/boundary_probe.py, which imports torch.
        *("boundary_probe.safetensors", "boundary_probe.json"),
        *(
            "all_results.json",
            "train_results.json",
            "eval_results.json",
            "LICENSE",
            "LICENSE.txt",
            "LICENSE.md",
            "NOTICE",
        ),
        *_TOKENIZER,
    }
)
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
"""Endings of files that may run code where they are loaded."""
_STATE = ("trainer_state.json", "hf_ckt_state")


@dataclass(frozen=True)
class SavedRun:
    """
    A folder with a model or adapter, sorted.

    Args:
        folder (`Path`):
            Where it is.
        files (`tuple[Path, ...]`):
            What belongs to the model.
        left_out (`dict[str, str]`):
            Everything else by name, each with the reason.
        is_adapter (`bool`):
            Whether the weights are those of an adapter.
    """

    folder: Path
    files: tuple[Path, ...]
    left_out: dict[str, str]
    is_adapter: bool


def read_saved_run(folder: Path, *, needs_card: bool = True) -> SavedRun:
    """
    Sorts the files of a folder that `trainer.save_model()` wrote.

    Args:
        folder (`Path`):
            With weights in safetensors, configuration and tokenizer.
        needs_card (`bool`, *optional*, defaults to `True`):
            Whether a card has to be there, too.

    Raises:
        ValueError: If it is no such folder, or one of these is missing or not whole.
    """
    _require_run(folder, needs_card)
    is_adapter = (folder / ADAPTER).is_file()
    weights = _weights(folder, is_adapter)
    files, left_out = [], {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and (path.name in _FILES or path.name in weights):
            files.append(path)
        elif path.is_dir() and path.name == "additional_chat_templates":
            files += sorted(path.glob("*.jinja"))
        else:
            left_out[path.name + "/" * path.is_dir()] = _reason(path)
    for path in files:
        if path.suffix == ".safetensors":
            _require_whole(path)
    return SavedRun(folder, tuple(files), left_out, is_adapter)


def safetensors_head(path: Path) -> tuple[dict[str, Any], int]:
    """
    Returns what the head of a safetensors file says of its tensors, by name, and where its values begin.

    Args:
        path (`Path`):
            The file, whose values are not read.

    Raises:
        ValueError: If there is no such head.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        # No more than the file has, whatever a broken one says.
        head = json.loads(file.read(min(length, path.stat().st_size)))
    if not isinstance(head, dict):
        raise ValueError(f"{path.name}: its head is no mapping.")
    return head, 8 + length


def _require_run(folder: Path, needs_card: bool) -> None:
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder, so there is no model to publish. Name one that a training saved.")
    if not any((folder / name).is_file() for name in (ADAPTER, MODEL)):
        newest = last_complete_checkpoint(folder, required=False)
        hint = f" Or push its last checkpoint, {newest}." if newest else ""
        raise ValueError(
            f"{folder}: holds neither {ADAPTER} nor {MODEL}, so it is no model that a trainer saved and nobody could load what "
            f"was pushed. Name the folder that trainer.save_model() wrote.{hint}"
        )
    missing = {
        CARD: "what was trained, on what and how would be unknown to readers. Write it with `hf-ckt card`.",
        "tokenizer_config.json": "the card's code, which loads it from the same place, would fail. Save it with "
        "tokenizer.save_pretrained(folder).",
    }
    for name, why in missing.items():
        if (name != CARD or needs_card) and not (folder / name).is_file():
            raise ValueError(f"{folder}: holds no {name}, so {why}")


def _weights(folder: Path, is_adapter: bool) -> set[str]:
    """Names of the files with the weights, all of which are there."""
    wanted = _ADAPTER_WEIGHTS if is_adapter else _MODEL_WEIGHTS
    index = folder / f"{_MODEL_WEIGHTS}.index.json"
    if is_adapter or (folder / wanted).is_file() or not index.is_file():
        if not (folder / wanted).is_file():
            pickles = sorted(path.name for path in folder.glob("*model*.bin"))
            beside = f" It holds {pickles[0]}, a pickle, which is not pushed." if pickles else ""
            raise ValueError(
                f"{folder}: holds no {wanted}, so a card without weights would be pushed.{beside} Save the model again with "
                "trainer.save_model(), which writes safetensors."
            )
        return {wanted}
    try:
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{index}: cannot be read ({error}), so it is not known which weights belong to it."
        ) from error
    # Of a file's name alone: an index may name what lies elsewhere.
    absent = sorted(name for name in shards if not _SHARD.fullmatch(name) or not (folder / name).is_file())
    if absent:
        raise ValueError(
            f"{folder}: lacks {absent[0]}, which {index.name} names, so a model with holes would be pushed. Save it again with "
            "trainer.save_model()."
        )
    return {*shards, index.name}


def _require_whole(path: Path) -> None:
    try:
        head, begin = safetensors_head(path)
        end = begin + max((one["data_offsets"][1] for name, one in head.items() if name != "__metadata__"), default=0)
    except (ValueError, KeyError, TypeError, IndexError):
        end = -1
    if end != path.stat().st_size:
        raise ValueError(
            f"{path}: is no whole safetensors file, as if its writing or copying was cut off, and nobody could load it. Save "
            "the model again."
        )


def _reason(path: Path) -> str:
    name = path.name
    if name.startswith("checkpoint-") and path.is_dir():
        return "a checkpoint"
    if path.suffix in PICKLES:
        return "a pickle, which may run code where it is loaded"
    if name.startswith(_STATE):
        return "the training's state, for resuming"
    if name.startswith(".") or name.endswith((".tmp", ".lock")) or ".tmp" in name:
        return "hidden or temporary"
    if path.is_dir():
        return "a folder"
    if name == "completions.parquet":
        return "answers to the prompts of an evaluation"
    if path.suffix == ".safetensors":
        return "weights of something else"
    return "not known to belong to a model"
