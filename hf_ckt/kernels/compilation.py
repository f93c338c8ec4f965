# SPDX-License-Identifier: Apache-2.0
"""When a tile program is worth compiling, and what happens where it cannot be."""

import inspect
import logging
from collections.abc import Callable
from typing import Any

import torch

logger = logging.getLogger(__name__)

# From how many projected logits (tokens x vocabulary x views, over the whole run) on a cold compile is taken. Both
# sides of the break-even are times of one machine, so their ratio travels better than either; and a choice by count,
# unlike one by the clock, is the same each time a run is started. For CPUs it is more than twice the break-even that
# `python examples/benchmarks/objective.py` measured for three views (`compile_break_even_elements` in
# examples/benchmarks/results/objective_smollm2.json, held by a test). For accelerators it is an estimate by memory
# traffic and not measured: about 30 passes over float32 logits saved at 2 TB/s, against 30 s of compilation.
_WORTH_COMPILING = {"cpu": 2 * 10**10, "accelerator": 10**12}

# All programs share one code object, whose compilations dynamo counts together and refuses beyond eight. torch 2.13 can
# keep them apart.
_ISOLATION: dict[str, Any] = (
    {"isolate_recompiles": True} if "isolate_recompiles" in inspect.signature(torch.compile).parameters else {}
)

_programs: dict[tuple, Callable | None] = {}  # None: failed, and runs plainly
_reasons: set[str] = set()  # said already: without a compiler each program fails, for the same reason


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
            Equal for functions that compute the same thing on tensors of the same shapes, dtypes and device.
        function (`Callable`):
            Function of tensors without graph breaks. Its shapes are static.
    """
    if key not in _programs and not _hooks_on_saved_tensors():
        compiled = torch.compile(function, fullgraph=True, dynamic=False, **_ISOLATION)
        try:
            result = compiled(*arguments)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            # Whatever the compiler stumbled over (most often: no C++ compiler), the plain program computes the same.
            # A fault of the function's own is raised again by the plain call.
            _programs[key] = None
            reason = str(error).split("\n")[0]
            if reason not in _reasons:
                _reasons.add(reason)
                logger.warning("torch.compile of the objective failed (%s); running it without.", reason)
        else:
            _programs[key] = compiled
            return result
    program = None if _hooks_on_saved_tensors() else _programs[key]
    return (function if program is None else program)(*arguments)


def _hooks_on_saved_tensors() -> bool:
    """Whether the user's hooks on saved tensors are on (activation offloading), which `torch.func.grad` refuses."""
    # As torch 2.13's own AOTAutograd asks it; there is no public question.
    return torch._C._autograd._top_saved_tensors_default_hooks(True) is not None
