# SPDX-License-Identifier: Apache-2.0
"""The precision that a backbone is held and multiplied in, and the file beside saved weights that says which it was."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RECORD = "hf_ckt_training.json"
"""File beside an adapter or model that the trainer saved; [`~hub.run_card.run_record`] says what is in it."""


def quantization_name(config: Any) -> str | None:
    """
    Returns what a model's quantization is called, `"nf4"`, `"fp4"`, `"int8"`, or the name of another method; None without.

    Args:
        config (`dict`, a quantization config of transformers, or None):
            `quantization_config` of a model's configuration.

    Example:

    >>> quantization_name({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"})
    'nf4'
    >>> quantization_name({"quant_method": "gptq", "bits": 4}), quantization_name(None)
    ('gptq', None)
    """
    if config is None:
        return None
    read = config.get if isinstance(config, Mapping) else lambda name, default=None: getattr(config, name, default)
    if read("load_in_8bit"):
        return "int8"
    if read("load_in_4bit"):
        return str(read("bnb_4bit_quant_type") or "fp4")  # as bitsandbytes' own default
    method = read("quant_method")
    return str(getattr(method, "value", method) or "quantized")


def backbone_precision(model: Any, autocast: str | None = None) -> dict[str, str]:
    """
    Returns the precision of a loaded model below its adapters.

    Args:
        model (`PreTrainedModel` or `PeftModel`):
            Its frozen parameters count where it has any, since adapters have a precision of their own.
        autocast (`str`, *optional*):
            Dtype that products are cast to, where they are.

    Returns:
        `dict`: `weights`, what most of them are held in (`"nf4"`, `"int8"`, `"bfloat16"`, ...), and `compute`, what they are
        multiplied in.
    """
    quantization = getattr(model.config, "quantization_config", None)
    name = quantization_name(quantization)
    parameters = [one for one in model.parameters() if one.is_floating_point()]
    frozen = [one for one in parameters if not one.requires_grad]
    counts: Counter = Counter()
    for one in frozen or parameters:
        counts[one.dtype] += one.numel()
    held = _dtype_name(counts.most_common(1)[0][0])
    # The layers of 4 bits cast what they are given to a dtype of their own, autocast or not.
    compute = getattr(quantization, "bnb_4bit_compute_dtype", None) if name in ("nf4", "fp4") else None
    return {"weights": name or held, "compute": autocast or held if compute is None else _dtype_name(compute)}


def precision_name(precision: Mapping[str, str]) -> str:
    """
    Returns the one word that tells a precision from others: a quantization, or else the dtype of the products.

    Example:

    >>> precision_name({"weights": "nf4", "compute": "bfloat16"}), precision_name({"weights": "float32", "compute": "bfloat16"})
    ('nf4', 'bfloat16')
    """
    dtypes = ("float64", "float32", "bfloat16", "float16")
    return precision["compute"] if precision["weights"] in dtypes else precision["weights"]


def recorded_precision(file: str | Path | None) -> dict[str, str] | None:
    """Returns the precision that a [`RECORD`] states; None where there is no such file, or it cannot be read."""
    if file is None:
        return None
    try:
        found = json.loads(Path(file).read_text(encoding="utf-8"))["backbone"]
        return {"weights": str(found["weights"]), "compute": str(found["compute"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _dtype_name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")
