# SPDX-License-Identifier: Apache-2.0
"""When a tile program is worth compiling, and what happens where it cannot be."""

import inspect
import logging
from collections.abc import Callable
from typing import Any

import torch

logger = logging.getLogger(__name__)

# From how many projected logits (tokens x vocabulary x views, over the whole run) on a cold compile is taken. Both
# sides of the break-even are times of one machine, so their ratio travels better than either; a choice by count also
# leaves a run the same each time and after a resume, which one by the clock would not. For CPUs it is twice the
# break-even that `hf-ckt bench objective` measured (examples/benchmarks/results/objective_smollm2.json,
# `compile_break_even_elements`, there in tokens x vocabulary for three views). For accelerators it is an estimate by
# memory traffic and not measured: about 30 passes over float32 logits saved at 2 TB/s, against 30 s of compilation.
_WORTH_COMPILING = {"cpu": 2 * 10**10, "accelerator": 10**12}

# All programs share one code object, whose compilations dynamo counts together: beyond eight it gives up and runs
# everything uncompiled, without a word. torch 2.13 can keep them apart.
_ISOLATION: dict[str, Any] = (
    {"isolate_recompiles": True} if "isolate_recompiles" in inspect.signature(torch.compile).parameters else {}
)

_programs: dict[tuple, Callable | None] = {}


def pays_to_compile(elements: int, device: torch.device) -> bool:
    """
    Returns whether a cold compile of the objective is repaid by a run.

    Args:
        elements (`int`):
            Logits that the whole run projects: tokens x vocabulary x views.
        device (`torch.device`):
            Where it runs.
    """
    return elements >= _WORTH_COMPILING["cpu" if device.type == "cpu" else "accelerator"]


def run_compiled(key: tuple, function: Callable, *arguments: Any) -> Any:
    """
    Calls a function through `torch.compile`, compiled once per key; plainly, and saying so once, where that fails.

    Args:
        key (`tuple`):
            Equal for functions that compute the same thing.
        function (`Callable`):
            Function of tensors without graph breaks. Its shapes are static.
    """
    if key not in _programs:
        _programs[key] = torch.compile(function, fullgraph=True, dynamic=False, **_ISOLATION)
    compiled = _programs[key]
    if compiled is not None:
        try:
            return compiled(*arguments)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            # Whatever the compiler stumbled over (most often: no C++ compiler), the plain program computes the same.
            # A fault of the function's own is raised again by the plain call.
            logger.warning(
                "torch.compile of the objective failed (%s); running it without.", str(error).split("\n")[0]
            )
            _programs[key] = None
    return function(*arguments)
