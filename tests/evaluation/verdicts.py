# SPDX-License-Identifier: Apache-2.0
"""Rows with verdicts, as the tests of scores write them."""

from typing import Any


def row(suite: str, prompt_id: str, refused: bool | None, **changes: Any) -> dict[str, Any]:
    """One judged answer; look-alikes are benign, all else is harmful unless `kind` says otherwise."""
    return {
        "suite": suite,
        "set": "mine",
        "prompt_id": prompt_id,
        "kind": "benign" if suite == "overrefusal" else "harmful",
        "category": "",
        "template": "",
        "corruption": "",
        "severity": 0.0,
        "seed": 0,
        "refused": refused,
        "degenerate": False,
        "token_consistency": None,
        **changes,
    }


def noisy(prompt_id: str, verdicts: dict[tuple[str, float], list[bool]], **changes: Any) -> list[dict[str, Any]]:
    """The rows of one prompt of the suite `noise`: the verdicts of each cell, a seed each; `("", 0.0)` is clean."""
    return [
        row("noise", prompt_id, refused, corruption=name, severity=severity, seed=seed, **changes)
        for (name, severity), several in verdicts.items()
        for seed, refused in enumerate(several)
    ]
