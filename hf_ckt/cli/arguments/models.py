# SPDX-License-Identifier: Apache-2.0
"""Names of models, before a library looks for them."""

import argparse
import re
from pathlib import Path

from ...checks import require_known
from ...data.files import is_path

JUDGE_HELP = "auto, learned, rule, advbench, or hf:ID of a classifier or chat model; default: auto, the best measured"
_CONFIGS = ("config.json", "adapter_config.json")
_DTYPES = ("auto", "bfloat16", "float16", "float32", "float64")


def require_there(option: str, name: str | None, remedy: str = "Give one, or a Hub id.") -> None:
    """Raises FileNotFoundError where a name can only be a folder or file of this machine, and none is there."""
    if name is not None and is_path(name) and not Path(name).exists():
        raise FileNotFoundError(f"{option}: there is no such file or folder, {name!r}. {remedy}")


def require_model(option: str, name: str | None) -> None:
    """As [`require_there`], and ValueError where what is there holds no model and no adapter."""
    require_there(option, name)
    if name is None or not Path(name).exists():
        return
    if not any(Path(name, file).is_file() for file in _CONFIGS):
        what = "is a file" if Path(name).is_file() else f"holds neither {' nor '.join(_CONFIGS)}"
        raise ValueError(
            f"{option}: {name!r} {what}, so there is no model to load. Give the folder that `save_pretrained` wrote, or a "
            "Hub id."
        )


def require_judge(spec: str) -> None:
    """Checks the name within `hf:NAME@REVISION#LABEL`; other judges are no models."""
    if spec.startswith("hf:"):
        from ...evaluation.judges import model_of

        require_model("--judge", model_of(spec)[0])


def require_models(options: argparse.Namespace) -> None:
    """Checks the options of [`~evaluation.measuring.models.add_model_options`], and a teacher."""
    require_model("--model", options.model)
    require_model("--adapter", options.adapter)
    for other in getattr(options, "compare", ()):
        require_model("--compare", other)
    for teacher in getattr(options, "teacher", None) or ():
        named = re.sub("^(harmful|benign)=", "", teacher)
        require_model("--teacher", None if named == "base" else named)
    if options.dtype is not None:
        require_known("--dtype", options.dtype, _DTYPES)
