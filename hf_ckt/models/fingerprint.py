# SPDX-License-Identifier: Apache-2.0
"""Telling one model from another by its weights, without reading all of them."""

import hashlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ._upstream import base_parameters

# Elements of each parameter that are looked at, evenly spaced.
_SAMPLE = 64


def fingerprint(model: torch.nn.Module, *, quantizable: bool = True, frozen_only: bool = False) -> str:
    """
    Returns 16 hexadecimal digits that differ between two models which differ in a parameter's shape or sampled values.

    A model has the same ones in another precision of 8 bits of mantissa or more, on another device and from another
    folder. Quantized weights are left out, whose layout belongs to a machine; what stands beside them (embeddings,
    norms, adapters) is looked at. Waits for the device.

    Args:
        model (`torch.nn.Module`):
            Before it is sharded; of a tensor that is split over devices, the shape alone counts.
        quantizable (`bool`, *optional*, defaults to `True`):
            Whether matrices count that a quantization would replace. Without them a model has the same digits whether it is
            loaded quantized or not: embeddings, norms and LoRA's factors are left.
        frozen_only (`bool`, *optional*, defaults to `False`):
            Whether what trains is left out: the base below an adapter.

    Example:

    >>> fingerprint(torch.nn.Linear(2, 1)) == fingerprint(torch.nn.Linear(3, 1))
    False
    """
    tables = _tables(model)
    return fingerprint_of(
        (name, parameter)
        for name, parameter in model.named_parameters()
        if (quantizable or parameter.ndim < 2 or id(parameter) in tables or "lora_" in name)
        and not (frozen_only and parameter.requires_grad)
    )


def base_fingerprint(model: torch.nn.Module) -> str:
    """
    Returns the same 16 digits of a model whether it is quantized or not and whichever adapters are around it: of its embeddings,
    norms and biases.
    """
    tables = _tables(model)
    parameters = base_parameters(model)
    return fingerprint_of((name, one) for name, one in parameters if one.ndim < 2 or id(one) in tables)


def _tables(model: torch.nn.Module) -> set[int]:
    return {id(one.weight) for one in model.modules() if isinstance(one, torch.nn.Embedding)}


def fingerprint_of(parameters: Iterable[tuple[str, Tensor]]) -> str:
    """Returns what [`fingerprint`] does, of some of a model's parameters with their names."""
    digest, samples = hashlib.blake2b(digest_size=8), []
    for name, parameter in parameters:
        if not parameter.is_floating_point() or parameter.is_meta:
            continue
        digest.update(f"{name} {tuple(parameter.shape)}\n".encode())
        if hasattr(parameter, "full_tensor"):
            continue  # a part of a tensor that is split over devices: the values of this one alone say little
        values = parameter.detach().flatten()
        step = max(1, len(values) // _SAMPLE)
        # Rounded, so that a teacher in float32 is the one that was loaded in bfloat16 before.
        samples.append(values[::step][:_SAMPLE].float().bfloat16().cpu())
    if samples:
        digest.update(torch.cat(samples).view(torch.int16).numpy().tobytes())
    return digest.hexdigest()


def scaling_of(config: Any) -> str | None:
    """Returns what tells two LoRA adapters of equal weights apart, of their configuration; None: it is no LoRA."""
    if not hasattr(config, "lora_alpha"):
        return None
    names = ("lora_alpha", "r", "use_rslora", "alpha_pattern", "rank_pattern")
    return ", ".join(f"{name} {value}" for name in names if (value := getattr(config, name, None)))
