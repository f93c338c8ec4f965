# SPDX-License-Identifier: Apache-2.0
"""Comparing the teachers of a checkpoint with those of the run that goes on from it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from ..models.signal_store.facts import without_names

# What tells one teacher from another only where both sides know it: a folder has no commit, an older checkpoint no digits.
_WHERE_KNOWN = ("revision", "unquantized", "base", "backbone", "scaling")
# What changes the numbers of one teacher by rounding, or not at all.
_PRECISION = ("quantization", "dtype", "revision")


class Changes(NamedTuple):
    """
    What is no longer as it was.

    Args:
        others (`tuple[str, ...]`):
            Teachers that are other ones, in words.
        same (`tuple[str, ...]`):
            Those that are the same ones in another precision, of another commit, or read from a cache, in words.
    """

    others: tuple[str, ...]
    same: tuple[str, ...]


def compare_manifests(before: Mapping[str, Any], now: Mapping[str, Any]) -> Changes:
    """
    Compares what teachers are known by, all but their names and folders.

    Args:
        before, now (`Mapping`):
            See [`~teachers.base.Teacher.manifest`]; of several teachers, `teachers` has each.

    Example:

    >>> one, two = ({"kind": "model", "name": name, "weights": name[-1]} for name in ("org/a", "org/b"))
    >>> compare_manifests(one, {**one, "name": "disk/a"})
    Changes(others=(), same=())
    >>> compare_manifests(one, two).others
    ("the checkpoint's teacher is 'org/a' (a), and this run's is 'org/b' (b), another one by its weights",)
    """
    then, today = _members(before), _members(now)
    if then.keys() != today.keys():
        if "teachers" in before and "teachers" in now:
            names = [", ".join(filter(None, one)) for one in (then, today)]
            return Changes((f"the checkpoint's teachers are {names[0]}, and this run's are {names[1]}",), ())
        return Changes((_another("", before, now, ["kind"]),), ())
    others, same = [], []
    for name, one in then.items():
        other, called = today[name], f" {name!r}" if name else ""
        changed = _changed(one, other)
        if set(changed) <= {*_PRECISION, *(["kind"] if one.get("weights") else [])}:
            same += [
                f"the teacher{called} has the {key} {_value(other.get(key))}, and the checkpoint's has {_value(one.get(key))}"
                for key in changed
            ]
        else:
            others.append(_another(called, one if name else before, other if name else now, changed))
    return Changes(tuple(others), tuple(same))


def _members(facts: Mapping[str, Any], name: str = "") -> dict[str, dict[str, Any]]:
    """All that is known, of each teacher that there is within another apart."""
    found = {name: {key: value for key, value in facts.items() if key not in ("teachers", "teacher")}}
    for member, one in facts.get("teachers", {}).items():
        found |= _members(one, f"{name}, {member}" if name else member)
    if "teacher" in facts:
        found |= _members(facts["teacher"], f"{name}, within" if name else "within")
    return found


def _another(called: str, before: Mapping[str, Any], now: Mapping[str, Any], changed: list[str]) -> str:
    return (
        f"the checkpoint's teacher{called} is {_said(before)}, and this run's is {_said(now)}, another one by its "
        f"{', '.join(changed)}"
    )


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs, the weights first."""
    keys = sorted({*before, *now} - {"name"}, key=lambda key: (key != "weights", key))
    changed = [
        key
        for key in keys
        if without_names(before.get(key)) != without_names(now.get(key))
        and (key not in _WHERE_KNOWN or (before.get(key) and now.get(key)))
    ]
    if "quantization" in changed and before.get("unquantized", 0) == now.get("unquantized", 1):
        # The digits of all weights leave out those that are quantized, so they differ with the precision.
        changed = [key for key in changed if key not in ("weights", "backbone")]
    return [key for key in changed if key != "unquantized" or "weights" not in changed]


def _said(facts: Mapping[str, Any]) -> str:
    if "teachers" in facts:
        return ", ".join(f"{name}: {_said(one)}" for name, one in facts["teachers"].items())
    if "teacher" in facts:
        return f"{facts.get('kind')} of {_said(facts['teacher'])}"
    return f"{facts.get('name')!r} ({facts.get('weights') or 'no model'})"


def _value(value: Any) -> str:
    return "none" if value is None else str(value)
