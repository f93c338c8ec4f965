# SPDX-License-Identifier: Apache-2.0
"""What a figure depends on beside the code and the data: versions, device, commit."""

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .. import __version__

_MEASURED = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "bitsandbytes",
    "accelerate",
    "datasets",
    "liger-kernel",
)


def machine_facts(device: str | None = None) -> dict[str, Any]:
    """
    Returns what a figure depends on beside the code measured: commit, device, threads, versions, date.

    Args:
        device (`str`, *optional*):
            What was measured on: `cpu` or `cuda`. None: the GPU where there is one.
    """
    import torch

    return {
        "commit": _commit(),
        "device": _device_name(device),
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "versions": library_versions(*_MEASURED, missing_ok=True),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def short_device_name(kind: str | None = None) -> str:
    """
    Returns what the line under a table names: the GPU, or how many cores of a CPU; [`machine_facts`] says more.

    Args:
        kind (`str`, *optional*):
            What was used, as torch names it: `cpu`, `cuda`, `mps`. None: the GPU where there is one.
    """
    import torch

    if kind not in (None, "cpu", "cuda"):
        return str(kind)
    return (
        f"CPU, {os.cpu_count()} cores"
        if kind == "cpu" or not torch.cuda.is_available()
        else torch.cuda.get_device_name()
    )


def peak_memory(used: Any = None) -> int | None:
    """
    Returns the most memory of the host that a process has held at a time, in bytes; None where the platform does not tell. On
    Linux it is at least what the process that started it held then.

    Args:
        used (`Any`, *optional*):
            What `os.wait4` tells of a process that has ended. None: this process.
    """
    if used is None:
        try:
            import resource
        except ModuleNotFoundError:
            return None
        used = resource.getrusage(resource.RUSAGE_SELF)
    return int(used.ru_maxrss) * (1 if sys.platform == "darwin" else 1024)


def wait_for(process: subprocess.Popen) -> int | None:
    """
    Waits until a process has ended, and returns its [`peak_memory`].

    Args:
        process (`subprocess.Popen`):
            Afterwards it has its `returncode`.
    """
    if not hasattr(os, "wait4"):
        process.wait()
        return None
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return peak_memory(used)


def library_versions(*names: str, missing_ok: bool = False) -> dict[str, str]:
    """
    Returns the version of this package and of libraries, by name.

    Args:
        names (`str`):
            As their distributions are called.
        missing_ok (`bool`, *optional*, defaults to `False`):
            Leave out what is not installed.

    Raises:
        PackageNotFoundError: If one is not installed, unless `missing_ok`.
    """
    found = {"hf_ckt": __version__}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            if not missing_ok:
                raise
    return found


def _commit() -> str | None:
    folder = Path(__file__).parent
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        # A copy without its history can be told what it is a copy of.
        return os.environ.get("HF_CKT_COMMIT") or None


def _device_name(device: str | None) -> str:
    import torch

    if device != "cpu" and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    names = Path("/proc/cpuinfo")
    lines = names.read_text(encoding="utf-8").splitlines() if names.exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "CPU")
    return f"{model}, {torch.get_num_threads()} threads"
