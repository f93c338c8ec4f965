# SPDX-License-Identifier: Apache-2.0
"""Finds the lines at which the host waits for the device, or would if there were one."""

import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

ROOT = Path(__file__).parents[2]
# Operations whose result, or its size, the host has to know before it goes on.
_SIZED_BY_VALUES = {
    "_local_scalar_dense",
    "_unique2",
    "bincount",
    "equal",
    "is_nonzero",
    "masked_select",
    "nonzero",
    "unique_consecutive",
    "unique_dim",
}
_INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_"}
# Functions that read a tensor on the host as a whole, or copy to the device from memory that is not pinned.
_READ = {"cpu", "numpy", "tolist"}
_COPIED = {"as_tensor", "new_tensor", "tensor"}
# Between a line and what is noted of it, beside torch.
_MACHINERY = {"contextlib", "functools", "warnings"}


class Waits:
    """
    Within it, notes each place at which the host waits: on a GPU by torch's own debug mode, on the CPU by the operations
    that would wait on one. Copies between devices that are written as `.to(device)` show on a GPU alone.
    """

    def __init__(self, device: str):
        self.device = device
        self.places: dict[str, list[str]] = {}
        """Dotted function to what was seen in it, with file and line."""

    def note(self, what: str) -> None:
        frame: Any = sys._getframe(1)
        trail = []
        while frame is not None and len(trail) < 4:
            path = Path(frame.f_code.co_filename)
            machinery = (
                "torch" in path.parts or path == Path(__file__) or frame.f_globals.get("__name__") in _MACHINERY
            )
            if not machinery and path.suffix == ".py":
                trail.append((path, frame.f_lineno, frame.f_globals.get("__name__"), frame.f_code.co_qualname))
            frame = frame.f_back
        path, _, module, function = trail[0]
        place = f"{module}.{function}"
        lines = " < ".join(
            f"{one.relative_to(ROOT) if ROOT in one.parents else one}:{line}" for one, line, *_ in trail
        )
        self.places.setdefault(place, []).append(f"{what} at {lines}")

    def __enter__(self) -> "Waits":
        if self.device == "cpu":
            self._modes = [_Operations(self), _Functions(self)]
            for mode in self._modes:
                mode.__enter__()
            return self
        torch.cuda.synchronize()
        self._caught = warnings.catch_warnings()
        self._caught.__enter__()
        warnings.simplefilter("always")

        # Called while the operation is still on the stack, which a recorded warning would no longer know.
        def show(message: Any, *_: Any, **__: Any) -> None:
            if "synchronizing CUDA operation" in str(message):
                self.note("a synchronizing CUDA operation")

        warnings.showwarning = show
        torch.cuda.set_sync_debug_mode("warn")
        return self

    def __exit__(self, *error: Any) -> None:
        if self.device == "cpu":
            for mode in reversed(self._modes):
                mode.__exit__(*error)
            return
        torch.cuda.set_sync_debug_mode("default")
        self._caught.__exit__(*error)


class _Operations(TorchDispatchMode):
    def __init__(self, waits: Waits):
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._overloadpacket.__name__
        by_mask = name in _INDEXED and any(
            isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if name in _SIZED_BY_VALUES or by_mask:
            self.waits.note(f"{name}{' by a mask' if by_mask else ''}")
        return func(*args, **(kwargs or {}))


class _Functions(TorchFunctionMode):
    def __init__(self, waits: Waits):
        super().__init__()
        self.waits = waits

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        kwargs = kwargs or {}
        # Without a device a new tensor stays on the host.
        copied = name in _COPIED and (name == "new_tensor" or kwargs.get("device") is not None)
        if copied or name in _READ:
            self.waits.note(name)
        return func(*args, **kwargs)
