# SPDX-License-Identifier: Apache-2.0
"""List every loss, teacher, perturbation and metric with its settings, defaults and source."""

import json
import textwrap
from typing import Any

from .arguments.parser import CommandParser

# No family of parts: a probe is fitted, by `hf-ckt fit-probe`, and has nothing to choose by name.
_PROBES = "probes"


def run(argv: list[str]) -> int:
    """Prints the parts as a list to read, or with `--json` as a JSON list."""
    parser = CommandParser(prog="hf-ckt parts", description=__doc__)
    parser.add_argument(
        "--family", metavar="NAME", help="only this family: losses, teachers, perturbations, metrics or probes"
    )
    parser.add_argument("--json", action="store_true", help="a JSON list with one object for each part")
    options = parser.parse_args(argv)

    # After the parsing: reading the parts imports torch, and a wrong option should not wait for it.
    from ..checks import require_known
    from ..discovery import FAMILIES, describe_part, load_part, part_names

    if options.family is not None:
        require_known("--family", options.family, (*FAMILIES, _PROBES))
    families = [options.family] if options.family else [*FAMILIES, _PROBES]
    parts = [
        describe_part(load_part(family, name))
        for family in families
        if family in FAMILIES
        for name in part_names(family)
    ]
    if _PROBES in families:
        from ..models.boundary_probe import BoundaryProbe

        # Not written by hand but fitted, so that its fields are no settings.
        parts.append(describe_part(BoundaryProbe) | {"family": _PROBES, "settings": {}})
    print(json.dumps(parts, indent=2, default=str) if options.json else _as_text(parts))
    return 0


def _as_text(parts: list[dict[str, Any]]) -> str:
    lines: list[str] = []
    family = None
    width = max((len(part["name"]) for part in parts), default=0) + 2
    for part in parts:
        if part["family"] != family:
            family = part["family"]
            lines += ["", family] if lines else [family]
        settings = ", ".join(f"{name}={default!r}" for name, default in part["settings"].items())
        facts = [f"[{', '.join(part['roles'])}]"] if part["roles"] else []
        facts += [settings] if settings else []
        lines.append(f"  {part['name']:<{width}}{'  '.join(facts)}".rstrip())
        lines += _indented(part["summary"])
        if part["source"]:
            lines += _indented(f"Source: {part['source']}")
    return "\n".join(lines)


def _indented(text: str) -> list[str]:
    return textwrap.wrap(text, width=110, initial_indent=" " * 6, subsequent_indent=" " * 6)
