# SPDX-License-Identifier: Apache-2.0
"""How hidden states are kept: in which dtype, at which cost, with which error."""

import torch
from torch import Tensor

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float16": torch.float16, "int8": torch.int8}
STATES, SCALES, IDS, LOG_PROBS = "states", "scales", "ids", "log_probs"
"""Fields of a record: hidden states `(n, D)` with, in int8, a scale each `(n,)`; or tokens and log-probabilities `(n, K)`."""


def encode(states: Tensor, dtype: str) -> dict[str, Tensor]:
    """
    Returns the record of hidden states.

    Args:
        states (`torch.Tensor` of shape `(n, D)`):
            As the teacher gave them.
        dtype (`str`):
            `bfloat16`, `float32`, `float16`, or `int8`: whole numbers from -127 to 127 with one scale a row.

    Raises:
        ValueError: If a state is not finite, or not finite in that dtype.
    """
    if dtype == "int8":
        wide = states.float()
        scales = wide.abs().amax(-1) / 127
        scales = torch.where(scales > 0, scales, 1)
        record = {STATES: (wide / scales[:, None]).round().to(torch.int8), SCALES: scales}
        finite = scales
    else:
        record = {STATES: states.to(DTYPES[dtype])}
        finite = record[STATES]
    if not finite.isfinite().all():
        raise ValueError(
            f"--dtype={dtype}: a hidden state of the teacher is not finite in it (the largest is {states.abs().max():.6g}), so "
            "the student would learn from infinities. Use bfloat16 or float32; if those fail too, the teacher is at fault."
        )
    return {name: values.cpu().contiguous() for name, values in record.items()}


def encode_top_k(log_probs: Tensor, count: int) -> dict[str, Tensor]:
    """Returns the record of the `count` most probable tokens, of log-probabilities `(n, V)`."""
    top = log_probs.topk(min(count, log_probs.shape[-1]), dim=-1)
    return {IDS: top.indices.int().cpu(), LOG_PROBS: top.values.float().cpu()}


def decode(record: dict[str, Tensor], dtype: torch.dtype) -> Tensor:
    """Returns the hidden states `(n, D)` of a record, in a dtype."""
    if SCALES not in record:
        return record[STATES].to(dtype)
    return (record[STATES].float() * record[SCALES][:, None]).to(dtype)


def bytes_per_position(width: int, dtype: str) -> int:
    """
    Returns what one kept position takes on disk, in bytes.

    Example:

    >>> bytes_per_position(576, "bfloat16"), bytes_per_position(576, "int8")
    (1152, 580)
    """
    return width * DTYPES[dtype].itemsize + (4 if dtype == "int8" else 0)
