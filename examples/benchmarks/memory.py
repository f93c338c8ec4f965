# SPDX-License-Identifier: Apache-2.0
"""How much more memory a call needs at its worst moment: of the allocator, and of the process."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

_MEMORY_EVENT = "[memory]"
_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")


def peak_extra_bytes(call: Callable[[], Any], device: torch.device | str) -> int:
    """
    Returns the most bytes that torch's allocator held at a time during a call, beyond what it held before.

    What the call returns counts, since it is there when the call ends; what existed before does not, and memory that a
    library takes past the allocator (buffers into which a matrix product is packed, say) is not seen. On CPU the call
    runs under `torch.profiler`, which is slow: time it in another call.

    Args:
        call (`Callable`):
            Called once. Warm it up first, or a compiler's work is measured with it.
        device (`torch.device` or `str`):
            Whose allocator is looked at.

    Example:

    >>> import torch
    >>> peak_extra_bytes(lambda: torch.zeros(1000).exp().sum(), "cpu")  # two vectors of 4,000 bytes
    8000
    """
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        returned = call()
        torch.cuda.synchronize(device)
        peak = torch.cuda.max_memory_allocated(device) - before
        del returned
        return peak
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        returned = call()
    # Freed only now, so that the measured time ends with the results alive on both kinds of device.
    del returned
    # The raw events: the summed-up ones of `profiler.events()` know what an operation allocated, not when. None but
    # this one place depends on where the profiler keeps them.
    results = profiler.profiler.kineto_results  # type: ignore[union-attr]
    events = [
        (event.start_ns(), event.nbytes())
        for event in results.events()  # type: ignore[union-attr]
        if event.name() == _MEMORY_EVENT and event.device_type() == torch.profiler.DeviceType.CPU
    ]
    return highest_sum([size for _, size in sorted(events, key=lambda event: event[0])])


def highest_sum(sizes: list[int]) -> int:
    """
    Returns the highest running sum of allocations (> 0) and frees (< 0); 0 if it never rises.

    Example:

    >>> highest_sum([4, 8, -4, 2])
    12
    """
    held = highest = 0
    for size in sizes:
        held += size
        highest = max(highest, held)
    return highest


def peak_resident_bytes(call: Callable[[], Any]) -> int | None:
    """
    Returns by how much the process's resident memory rose at its worst moment of a call, or None where Linux's
    counters are not to be had.

    It sees what no allocator reports, such as a compiler at work in this process; processes that it starts are not
    counted, and neither are pages that the C library kept from earlier work and gives out again. The call runs in
    either case.

    Args:
        call (`Callable`):
            Called once.
    """
    try:
        before = status_bytes("VmRSS")
        reset_high_water_mark()
    except (OSError, ValueError):
        call()
        return None
    call()
    return max(0, status_bytes("VmHWM") - before)


def reset_high_water_mark() -> None:
    """Sets the process's VmHWM to what is resident now; raises OSError where the system has or allows no such thing."""
    _CLEAR_REFS.write_text("5", encoding="ascii")


def status_bytes(field: str) -> int:
    """
    Returns a size of this process that Linux keeps: `VmRSS`, resident now, or `VmHWM`, its high-water mark.

    Raises:
        OSError: Where there is no such file.
        ValueError: If it has no such field.
    """
    found = re.search(rf"^{field}:\s+(\d+) kB$", _STATUS.read_text(encoding="ascii"), re.MULTILINE)
    if found is None:
        raise ValueError(field)
    return int(found[1]) * 1024
