# SPDX-License-Identifier: Apache-2.0
"""Files of one folder are of the same models: a name such as `base` is in each of them, whichever model it stands for."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def require_same_models(name: str, models: Mapping[str, Any], other_name: str, others: Mapping[str, Any]) -> None:
    """
    Raises ValueError when two files mean another model by the same name.

    Args:
        name, other_name (`str`):
            What the two files are called.
        models, others (`Mapping`):
            Their models by name, with `model` and `adapter`, and `identity` where the file states it.
    """
    for shared in [key for key in models if key in others]:
        first, second = models[shared], others[shared]
        fields = ["identity"] if first.get("identity") and second.get("identity") else ["model", "adapter"]
        if any(first.get(field) != second.get(field) for field in fields):
            raise ValueError(
                f"{name}: {shared!r} is {_shown(first)} there and {_shown(second)} in {other_name}, so one report would show "
                "two models as one. Keep the results of each model in a folder of their own."
            )


def require_folder_of(folder: Path, file: str, models: Mapping[str, Any]) -> None:
    """Raises ValueError when a file that is in a folder already means another model by the name of one of `models`."""
    try:
        others = json.loads((folder / file).read_text(encoding="utf-8"))["models"]
    except (OSError, ValueError, KeyError, TypeError):
        return  # what cannot be read is the report's to say
    if isinstance(others, Mapping):
        require_same_models(f"--output: {folder.name}/{file}", others, "this run", models)


def _shown(model: Mapping[str, Any]) -> str:
    parts = [str(model[field]) for field in ("model", "adapter") if model.get(field)]
    digest = [str(one)[:8] for one in model.get("identity") or () if one]
    return " with ".join(parts) + (f" ({', '.join(digest)})" if digest else "")
