# SPDX-License-Identifier: Apache-2.0
"""Whether an adapter belongs to a base: by what it records of it, by its tokens, and by every one of its weights."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

_SAMPLED = 2**20  # bytes read at either end of a weights file: two trainings of a model differ everywhere
# Held once and referred to from every layer, or not part of a file at all; peft leaves them out of its own warning.
_SHARED = ("vblora_vector_bank", "prompt_encoder", ".tinylora_v.", ".unilora_theta_d.")


def adapter_settings(adapter: str) -> dict[str, Any]:
    """Returns what an adapter's `adapter_config.json` holds."""
    from transformers.utils.peft_utils import find_adapter_config_file

    file = Path(str(find_adapter_config_file(adapter)))
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:  # not JSON, or not UTF-8
        raise ValueError(f"{file.parent.name}/{file.name}: is not JSON ({error}). Save the adapter again.") from error
    if not isinstance(settings, dict) or "peft_type" not in settings:
        raise ValueError(
            f"{file.parent.name}/{file.name}: has no peft_type, so it is unknown how to load it. Save the adapter with peft."
        )
    return settings


def is_same_base(recorded: str, base: str) -> bool:
    """
    Tells whether the base that an adapter records is the one that it is to be put on.

    Where the weights of both are on this machine they decide. Else the names do: of two Hub ids the whole ids, of a folder
    its own name, since a copy lies elsewhere on another machine.

    Args:
        recorded (`str`):
            Hub id, or a folder of the machine that trained.
        base (`str`):
            Hub id or folder.
    """
    if recorded == base:
        return True
    ours, theirs = _weights(base), _weights(recorded)
    if ours and theirs:
        return ours == theirs
    if _is_hub_id(recorded) and _is_hub_id(base):
        return recorded.casefold() == base.casefold()
    return _own_name(recorded) == _own_name(base)


def _weights(model: str) -> list[tuple[int, str]] | None:
    """Size and a digest of both ends of each weights file, sorted; None where there is none on this machine."""
    folder = Path(model)
    if not folder.is_dir():
        if not _is_hub_id(model):
            return None
        from transformers.utils import cached_file

        found = cached_file(model, "config.json", local_files_only=True, _raise_exceptions_for_missing_entries=False)
        if found is None:
            return None
        folder = Path(str(found)).parent
    from ...models.boundary_probe import WEIGHTS as PROBE

    told = []
    for path in folder.glob("*.safetensors"):
        if path.name == PROBE:
            continue
        size = path.stat().st_size
        with path.open("rb") as file:
            ends = file.read(_SAMPLED)
            file.seek(max(0, size - _SAMPLED))
            ends += file.read(_SAMPLED)
        told.append((size, hashlib.sha256(ends).hexdigest()))
    return sorted(told) or None


def _is_hub_id(name: str) -> bool:
    return re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) is not None and not Path(name).exists()


def _own_name(model: str) -> str:
    # The converted copy of SmolLM2 carries the version that converted it, and what it was converted from.
    name = re.sub(r"-transformers-[\d.]+(-[0-9a-f]{8})?$", "", re.split(r"[\\/]", model.rstrip("\\/"))[-1])
    return name.casefold()


def resize_as_trained(model: Any, file: Path, name: str) -> None:
    """
    Gives a base as many tokens as the embeddings in an adapter's file have; the new rows come with the file.

    Args:
        model (`PreTrainedModel`):
            The base, whose names the file uses.
        file (`Path`):
            `adapter_model.safetensors`; only its header is read.
        name (`str`):
            What the adapter is called in the message.

    Raises:
        ValueError: If the file has the rows of one of input and output embeddings alone.
    """
    modules = {id(module): name for name, module in model.named_modules()}
    layers = {"input": model.get_input_embeddings(), "output": model.get_output_embeddings()}
    named = {kind: f"base_model.model.{modules[id(layer)]}." for kind, layer in layers.items() if id(layer) in modules}
    rows = {kind: _rows(file, prefix) for kind, prefix in named.items()}
    grown = {count for count in rows.values() if count not in (None, layers["input"].weight.shape[0])}
    if not grown:
        return
    tied = layers["output"] is None or layers["output"].weight is layers["input"].weight
    lacking = [] if tied else [kind for kind, count in rows.items() if count is None]
    if lacking:
        raise ValueError(
            f"{name}: was trained with {max(grown)} tokens in place of the base's {layers['input'].weight.shape[0]}, and its "
            f"file lacks the {lacking[0]} embeddings of the others, so they would be random numbers. Train it again with "
            "embeddings and head in modules_to_save."
        )
    model.resize_token_embeddings(max(grown), mean_resizing=False)


def _rows(file: Path, prefix: str) -> int | None:
    """Tokens of one module's embeddings in an adapter's file; None where it holds none."""
    from safetensors import safe_open

    rows = set()
    with safe_open(file, "pt") as weights:
        for key in weights.keys():  # noqa: SIM118  (a handle, not a mapping)
            if not key.startswith(prefix):
                continue
            shape = weights.get_slice(key).get_shape()
            if key.endswith("lora_embedding_A"):
                rows.add(shape[1])
            elif key.endswith(".weight") and "lora_" not in key and len(shape) == 2:
                rows.add(shape[0])
    return max(rows, default=None)


def require_every_key(told: Any, file: Path, name: str, prompt_learning: bool) -> None:
    """
    Raises ValueError unless every weight of an adapter's file found its place, and every place its weight.

    Args:
        told (`NamedTuple`):
            What peft's `load_adapter` returned: `missing_keys` and `unexpected_keys`.
        file (`Path`):
            The adapter's weights.
        name (`str`):
            What the adapter is called in the message.
        prompt_learning (`bool`):
            Whether it is one of virtual tokens, which peft loads apart from the keys of the model.
    """
    from safetensors import safe_open

    with safe_open(file, "pt") as weights:
        held = set(weights.keys())
    missing = [key for key in told.missing_keys if not any(part in key for part in _SHARED)]
    # peft writes a module that is trained whole under two names when the vocabulary has grown, and reads the other one.
    unexpected = [key for key in told.unexpected_keys if key.replace(".modules_to_save.", ".") not in held - {key}]
    if prompt_learning:
        unexpected = []
    if missing or unexpected:
        first = (unexpected or missing)[0]
        raise ValueError(
            f"{name}: {len(unexpected)} of its weights have no place in the base and {len(missing)} places got none (the "
            f"first: {first!r}), so the base would be scored under the adapter's name. It was trained on another model: "
            "give that one as --model."
        )


def require_embedded(model: Any, added: set[int], name: str) -> None:
    """Raises ValueError when a model has no embedding for tokens that an adapter's tokenizer adds to its base's."""
    rows = model.get_input_embeddings().weight.shape[0]
    beyond = sorted(token for token in added if token >= rows)
    if beyond:
        raise ValueError(
            f"{name}: its tokenizer adds {len(beyond)} tokens (from id {beyond[0]}) for which the base has no embedding and "
            "the adapter's file holds none, so they would be random numbers. Save the adapter again with "
            "save_embedding_layers=True."
        )
