# SPDX-License-Identifier: Apache-2.0
"""From a file name to a part: `losses/forward_kl.py` holds `ForwardKLLoss` and is `"forward_kl"` everywhere."""

import dataclasses
import importlib
import inspect
import re
from functools import cache
from pathlib import Path
from typing import Any

from .checks import require_known

# family (folder) -> suffix of its class names
_SUFFIXES = {
    "losses": "Loss",
    "teachers": "Teacher",
    "perturbations": "Perturbation",
    "metrics": "Metric",
    "token_weights": "TokenWeights",
}
FAMILIES: tuple[str, ...] = tuple(_SUFFIXES)


def part_names(family: str) -> list[str]:
    """Returns the names of a family's parts, read off the file names: nothing is imported."""
    require_known("family", family, FAMILIES)
    folder = Path(__file__).parent / family
    return sorted(path.stem for path in folder.glob("*.py") if path.stem not in ("__init__", "base"))


@cache
def load_part(family: str, name: str) -> type:
    """
    Returns the class of a part.

    Raises:
        ValueError: If no file of the family has that name; the message gives the nearest one.
        TypeError: If the file does not hold exactly one public class with the family's suffix.
    """
    require_known(family.rstrip("s") if family != "losses" else "loss", name, part_names(family))
    module = importlib.import_module(f".{family}.{name}", package=__package__)
    classes = [
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and value.__module__ == module.__name__
        and value.__name__.endswith(_SUFFIXES[family])
        and not value.__name__.startswith("_")
    ]
    if len(classes) != 1:
        raise TypeError(
            f"{module.__name__}: must hold exactly one public *{_SUFFIXES[family]} class, has {len(classes)}."
        )
    return classes[0]


def part_name(part: Any) -> str:
    """Returns a part's name (its class's or instance's file name)."""
    return (part if inspect.isclass(part) else type(part)).__module__.rsplit(".", 1)[-1]


def names_for_role(role: str) -> list[str]:
    """Returns the losses that can serve a role (`task`, `distillation`, `contrastive`, ...)."""
    return [name for name in part_names("losses") if role in getattr(load_part("losses", name), "roles", ())]


def part_settings(cls: type) -> dict[str, dataclasses.Field]:
    """Returns the settings of a part that users may set: the dataclass fields without `role`."""
    if not dataclasses.is_dataclass(cls):
        return {}
    return {field.name: field for field in dataclasses.fields(cls) if field.init and field.name != "role"}


def describe_part(cls: type) -> dict[str, Any]:
    """Returns what `hf-ckt parts` prints of a part: family, name, class, roles, settings with defaults, source."""
    doc = inspect.getdoc(cls) or ""
    source = re.search(r"^Source:\s*(.+?)(?=\n\s*\n|\nRelated:|\nDiffers:|\Z)", doc, flags=re.DOTALL | re.MULTILINE)
    return {
        "family": cls.__module__.split(".")[-2],
        "name": part_name(cls),
        "class": cls.__name__,
        "roles": sorted(getattr(cls, "roles", ())),
        "settings": {
            name: None if field.default is dataclasses.MISSING else field.default
            for name, field in part_settings(cls).items()
        },
        "source": " ".join(source.group(1).split()) if source else "",
        "summary": doc.split("\n\n")[0].replace("\n", " "),
    }
