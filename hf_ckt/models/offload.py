# SPDX-License-Identifier: Apache-2.0
"""Where the weights of a second model lie: on a device of its own, or on an accelerator for the length of a pass."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn


class OffloadedWeights:
    """
    Keeps the weights of a frozen model on the CPU and copies them to a device for each pass.

    They are copied one way only: since nothing changes them, what comes back is the tensors that never left. On a CUDA device
    they are pinned, so that the copy runs at the bus's speed. Where the device is the CPU itself, nothing is copied.

    Args:
        model (`nn.Module`):
            Frozen, in the memory of the CPU.
        device (`torch.device`):
            Where its passes run.
    """

    def __init__(self, model: nn.Module, device: torch.device):
        self.device = device
        # By object, so that a tied weight is copied once.
        self._held: dict[int, tuple[Tensor, Tensor]] = {}
        for tensor in chain(model.parameters(), model.buffers()):
            if device.type == "cuda":
                tensor.data = tensor.data.pin_memory()
            if tensor.device != device:
                self._held[id(tensor)] = tensor, tensor.data

    @contextmanager
    def on_device(self) -> Iterator[None]:
        """Runs what is within it with the weights on the device; a view of one that outlives it stays there."""
        try:
            for tensor, home in self._held.values():
                tensor.data = home.to(self.device, non_blocking=True)
            yield
        finally:
            for tensor, home in self._held.values():
                tensor.data = home


def is_sharded(accelerator: Any) -> bool:
    """Whether a run, known by its `Accelerator`, shards its models over its processes; not where there is none."""
    return getattr(accelerator, "distributed_type", "NO") in ("FSDP", "DEEPSPEED")


def require_place(accelerator: Any, device: str | None, offload: bool, quantized: bool) -> None:
    """
    Raises ValueError where a second model cannot stay on a device of its own, or be offloaded.

    Args:
        accelerator (`Accelerator`, *optional*):
            Knows whether the run shards its models.
        device (`str`, *optional*), offload (`bool`):
            What is asked for.
        quantized (`bool`):
            Whether its weights are.
    """
    setting = f"device={device!r}" if device is not None else "offload=True"
    if device is not None and offload:
        raise ValueError(
            f"{setting} and offload: the first keeps the teacher's weights where its passes run, the second moves them there "
            "for each. Leave one out."
        )
    if (device is not None or offload) and is_sharded(accelerator):
        raise ValueError(
            f"{setting}: this run shards its models over its processes, the teacher too, so it would not be followed. Leave "
            "it out; the plugin of FSDP and DeepSpeed can offload what they shard."
        )
    if offload and quantized:
        raise ValueError(
            "offload=True: the teacher is quantized, and such weights belong to the device that they were packed on. Leave "
            "offload or the quantization out: in 4 bits a model takes a quarter of the memory all the time."
        )
