# SPDX-License-Identifier: Apache-2.0
"""How the entries of a study's file come together: what it extends, its tier, and methods that are like another."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..checks import require_known

TIERS = "tiers"
LIKE = "like"
# Entries by name, and of these the ones whose entries hold fields by name again.
_FIELDS = ("train", "grid", "evaluate")
_RUNS = ("methods", "prepare")


def spelled(entries: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """
    Returns a file's entries with fields by their names with underscores, so that one that stands in two places is one, and
    with runs and tiers by text.

    Raises:
        ValueError: If an entry holds no entries by name where it should.
    """
    found = {str(name): value for name, value in entries.items()}
    for name in (*_FIELDS, *_RUNS, TIERS):
        value = found.get(name)
        if value is None:
            continue
        if not isinstance(value, Mapping):
            raise ValueError(f"{where}{name}: must hold entries by name, got {value!r:.60}. See docs/studies.md.")
        if name in _FIELDS:
            found[name] = _fields(value)
        elif name == TIERS:
            found[name] = {str(tier): _tier(f"{where}{name}, {tier}", one) for tier, one in value.items()}
        else:
            found[name] = {str(run): _run(f"{where}{name}, {run}", one) for run, one in value.items()}
    return found


def over(entries: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """
    Returns entries with others over them, by name at every depth.

    Example:

    >>> over({"train": {"max_steps": 100, "seed": 0}, "seeds": [0, 1]}, {"train": {"max_steps": 2}, "seeds": [0]})
    {'train': {'max_steps': 2, 'seed': 0}, 'seeds': [0]}
    """
    found = {**entries}
    for name, value in others.items():
        before = found.get(name)
        found[name] = over(before, value) if isinstance(value, Mapping) and isinstance(before, Mapping) else value
    return found


def of_tier(entries: Mapping[str, Any], tier: str | None, known: Sequence[str]) -> dict[str, Any]:
    """
    Returns the entries of a study, those of a tier over the file's own.

    Raises:
        ValueError: If the tier or the name of an entry is unknown.
    """
    tiers = entries.get(TIERS) or {}
    entries = {name: value for name, value in entries.items() if name != TIERS}
    for where, found in (("study", entries), *((f"{TIERS}, {name}", one) for name, one in tiers.items())):
        for name in found:
            require_known(where, name, known)
    if tier is None:
        return entries
    require_known("tier", tier, tiers)
    return over(entries, tiers[tier])


def with_likes(methods: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """
    Returns methods with the fields of those that they are like; one of their own replaces the other's, whatever it holds.

    Raises:
        ValueError: If a method is like one that does not stand above it.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, fields in methods.items():
        other = fields.get(LIKE)
        if other in methods and other not in found:
            raise ValueError(f"methods, {name}: is like {other!r}, which must stand above it. Move one of them.")
        if other is not None:
            require_known(f"methods, {name}, {LIKE}", other, found)
        found[name] = {
            **(found[other] if other is not None else {}),
            **{key: value for key, value in fields.items() if key != LIKE},
        }
    return found


def _fields(entries: Mapping[str, Any]) -> dict[str, Any]:
    return {str(name).replace("-", "_"): value for name, value in entries.items()}


def _run(where: str, fields: Any) -> dict[str, Any]:
    if not isinstance(fields, Mapping):
        raise ValueError(
            f"{where}: must hold fields of `hf-ckt train` by name, got {fields!r:.60}. `{{}}` changes none."
        )
    return _fields(fields)


def _tier(where: str, entries: Any) -> dict[str, Any]:
    if entries is not None and not isinstance(entries, Mapping):
        raise ValueError(f"{where}: must hold entries of a study by name, got {entries!r:.60}. See docs/studies.md.")
    return spelled(entries or {}, f"{where}, ")
