# SPDX-License-Identifier: Apache-2.0
"""Print versions, machine and settings, for a bug report."""

import json
import os
import platform
import re
from importlib.metadata import requires
from typing import Any

from .arguments.parser import CommandParser

_DISTRIBUTION = "hf-ckt"
# Installed beside it by some, and reason of many a difference.
_OTHERS = (
    "tokenizers",
    "deepspeed",
    "flash-attn",
    "liger-kernel",
    "kernels",
    "vllm",
)
# Variables that change what a run does or where it reads, none of which holds a secret.
_VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "HF_ENDPOINT",
    "HF_HUB_OFFLINE",
    "OMP_NUM_THREADS",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
    "TOKENIZERS_PARALLELISM",
)


def run(argv: list[str]) -> int:
    """Prints the facts as a list for a report, or with `--json` as JSON. No token and no path is among them."""
    parser = CommandParser(prog="hf-ckt env", description=__doc__)
    parser.add_argument("--json", action="store_true", help="as a JSON object")
    options = parser.parse_args(argv)
    facts = environment()
    print(
        json.dumps(facts, indent=2)
        if options.json
        else "\n".join(f"- {name}: {value}" for name, value in facts.items())
    )
    return 0


def environment() -> dict[str, str]:
    """Returns what a bug report needs, by name; libraries that are not there say so."""
    from ..hub.provenance import library_versions, machine_facts
    from ..models.embedded import native_dtype

    facts = machine_facts("cpu")
    names = (*_required(), *_OTHERS)
    installed = library_versions(*names, missing_ok=True)
    found = {
        "hf_ckt": facts["versions"]["hf_ckt"] + (f", commit {facts['commit']}" if facts["commit"] else ""),
        "python": facts["python"],
        "system": platform.platform(),
        "processor": f"{facts['device']} of {os.cpu_count()}, {facts['capability']}",
        "memory": _memory(),
        **_gpus(),
        "dtype that it multiplies": native_dtype(),
    }
    found |= {name: installed.get(name, "not installed") for name in names}
    found["Hub login"] = _login()
    return found | {name: os.environ[name] for name in _VARIABLES if name in os.environ}


def _required() -> list[str]:
    """Names of what the package asks for, that of its extras after the rest."""
    asked = requires(_DISTRIBUTION) or []
    names = [
        match[0]
        for line in sorted(asked, key=lambda line: "extra ==" in line)
        if (match := re.match(r"[\w.-]+", line))
    ]
    return list(dict.fromkeys(names))


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
    except (AttributeError, ValueError, OSError):  # Windows
        return "not known"


def _gpus() -> dict[str, str]:
    import torch

    if not torch.cuda.is_available():
        return {"GPU": f"none that torch can use (torch is built for CUDA {torch.version.cuda or 'none'})"}
    found: dict[str, str] = {}
    for index in range(torch.cuda.device_count()):
        about: Any = torch.cuda.get_device_properties(index)
        found[f"GPU {index}"] = (
            f"{about.name}, {about.total_memory / 2**30:.0f} GiB, capability {about.major}.{about.minor}"
        )
    return found | {"CUDA of torch": torch.version.cuda or "none"}


def _login() -> str:
    from huggingface_hub import get_token

    return "a token is set" if get_token() else "none"
