# SPDX-License-Identifier: Apache-2.0
"""The teachers of a run as its card names them, each with its licence where this machine knows it."""

from collections.abc import Mapping
from typing import Any

from ..models.cached import find_file
from ..models.embedded import converted_licence


def teacher_rows(facts: Mapping[str, Any], base_model: str | None = None) -> list[dict[str, Any]]:
    """
    Returns what a card says of each teacher.

    Args:
        facts (`Mapping`):
            What the teacher is known by, see [`~teachers.base.Teacher.manifest`].
        base_model (`str`, *optional*):
            Hub id or folder of the student's base, whose licence is that of the base as its own teacher.

    Returns:
        `list[dict]`: `route`, the name that rows give it, empty where there is one teacher; `kind`; `name`; what there is of
        `revision`, `quantization`, `base` (of an adapter) and `licence`.
    """
    if facts.get("kind") == "soft_route":  # both are heard on every row
        return [
            {**row, "kind": f"soft_route, {name}: {row['kind']}"}
            for name, one in facts["teachers"].items()
            for row in teacher_rows(one, base_model)
        ]
    if "teachers" in facts:
        return [
            {**row, "route": name} for name, one in facts["teachers"].items() for row in teacher_rows(one, base_model)
        ]
    if "teacher" in facts:
        return [
            {**row, "kind": f"{facts['kind']} of {row['kind']}"} for row in teacher_rows(facts["teacher"], base_model)
        ]
    kind, revision = facts.get("kind", ""), facts.get("revision")
    licensed = base_model if kind == "self" else facts.get("name")
    row = {"route": "", "kind": kind, "name": facts.get("name"), "revision": revision}
    row |= {"quantization": facts.get("quantization"), "base": (facts.get("base") or {}).get("name")}
    row["licence"] = None if licensed is None else find_licence(licensed, revision)
    return [{key: value for key, value in row.items() if value is not None}]


def find_licence(name: str, revision: str | None = None) -> str | None:
    """
    Returns the licence that a model's own card states, or the file that it was converted from, without network; None where there
    is neither, or it states none.

    Args:
        name (`str`):
            A folder, or a Hub id whose card is looked for in the cache.
        revision (`str`, *optional*):
            Of a Hub id.

    Example:

    >>> import tempfile
    >>> from pathlib import Path
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "README.md").write_text("---\\nlicense: apache-2.0\\n---\\n# A model\\n")
    >>> find_licence(str(folder)), find_licence("nobody/nothing")
    ('apache-2.0', None)
    """
    import yaml

    path = find_file(name, "README.md", revision)
    if path is None:
        return converted_licence(name)
    try:
        _, head, _ = path.read_text(encoding="utf-8").split("---\n", 2)
        stated = yaml.safe_load(head)
    except (OSError, ValueError, yaml.YAMLError):  # no card's head, or a broken one
        return None
    licence = stated.get("license") if isinstance(stated, Mapping) else None
    if licence == "other":
        licence = stated.get("license_name") or licence
    return ", ".join(map(str, licence)) if isinstance(licence, list) else licence and str(licence)
